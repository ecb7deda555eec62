-- Each search writes 200 rows with scattered tracklets: the index took more time than the rows. Erasure and retention
-- read the table once for many tracklets instead.
DROP INDEX hits_tracklet;
