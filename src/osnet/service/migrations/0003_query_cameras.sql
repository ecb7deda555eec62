-- A picture that was cut from footage is seen by those who may see the camera. Earlier ones have it in their label,
-- "gate at 1795852800.0".
ALTER TABLE queries ADD COLUMN camera TEXT;
UPDATE queries SET camera = substr(label, 1, length(label) - 16)
WHERE tracklet IS NULL AND length(label) > 16
AND substr(label, length(label) - 15, 4) = ' at ' AND substr(label, length(label) - 1, 1) = '.';
-- Kept answers are masked from here on.
DELETE FROM idempotency;
