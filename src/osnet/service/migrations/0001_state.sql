-- What the service keeps. Portable SQL: SQLite and Postgres run it; BYTES becomes BLOB or BYTEA.
CREATE TABLE roles (
  name TEXT PRIMARY KEY,
  kind TEXT NOT NULL CHECK (kind IN ('administrator', 'operator', 'viewer')),
  cameras TEXT
);
CREATE TABLE accounts (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  password TEXT NOT NULL,
  role TEXT NOT NULL REFERENCES roles (name),
  disabled INTEGER NOT NULL DEFAULT 0,
  created_s DOUBLE PRECISION NOT NULL
);
CREATE TABLE sessions (
  digest TEXT PRIMARY KEY,
  account TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  csrf TEXT NOT NULL,
  created_s DOUBLE PRECISION NOT NULL,
  used_s DOUBLE PRECISION NOT NULL,
  ends_s DOUBLE PRECISION NOT NULL
);
CREATE TABLE tokens (
  id TEXT PRIMARY KEY,
  account TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  digest TEXT NOT NULL,
  scopes TEXT NOT NULL,
  created_s DOUBLE PRECISION NOT NULL,
  ends_s DOUBLE PRECISION NOT NULL,
  revoked_s DOUBLE PRECISION
);
CREATE TABLE setup_links (digest TEXT PRIMARY KEY, ends_s DOUBLE PRECISION NOT NULL);
CREATE TABLE failed_logins (subject TEXT NOT NULL, at_s DOUBLE PRECISION NOT NULL);
CREATE INDEX failed_logins_subject ON failed_logins (subject, at_s);
CREATE TABLE audit (
  seq BIGINT PRIMARY KEY,
  at_s DOUBLE PRECISION NOT NULL,
  account TEXT NOT NULL,
  action TEXT NOT NULL,
  reason_digest TEXT NOT NULL,
  what_digest TEXT NOT NULL,
  previous TEXT NOT NULL,
  hash TEXT NOT NULL
);
CREATE TABLE audit_details (
  seq BIGINT PRIMARY KEY REFERENCES audit (seq),
  salt TEXT NOT NULL,
  reason TEXT NOT NULL,
  what TEXT
);
CREATE TABLE cases (
  id TEXT PRIMARY KEY,
  title TEXT NOT NULL,
  notes TEXT NOT NULL,
  reason TEXT NOT NULL,
  account TEXT NOT NULL,
  created_s DOUBLE PRECISION NOT NULL
);
CREATE TABLE searches (
  id TEXT PRIMARY KEY,
  case_id TEXT REFERENCES cases (id) ON DELETE SET NULL,
  account TEXT NOT NULL,
  reason TEXT NOT NULL,
  filters TEXT NOT NULL,
  description TEXT NOT NULL,
  created_s DOUBLE PRECISION NOT NULL
);
CREATE INDEX searches_case ON searches (case_id);
CREATE TABLE queries (
  search TEXT NOT NULL REFERENCES searches (id) ON DELETE CASCADE,
  place INTEGER NOT NULL,
  label TEXT NOT NULL,
  tracklet TEXT,
  jpeg BYTES NOT NULL,
  vector BYTES NOT NULL,
  PRIMARY KEY (search, place)
);
CREATE INDEX queries_tracklet ON queries (tracklet);
CREATE TABLE hits (
  search TEXT NOT NULL REFERENCES searches (id) ON DELETE CASCADE,
  place INTEGER NOT NULL,
  tracklet TEXT NOT NULL,
  score DOUBLE PRECISION NOT NULL,
  crop_score DOUBLE PRECISION,
  PRIMARY KEY (search, place)
);
CREATE INDEX hits_tracklet ON hits (tracklet);
CREATE TABLE answers (
  seq BIGINT PRIMARY KEY,
  search TEXT NOT NULL REFERENCES searches (id) ON DELETE CASCADE,
  tracklet TEXT NOT NULL,
  answer TEXT NOT NULL CHECK (answer IN ('yes', 'no', 'undone')),
  account TEXT NOT NULL,
  at_s DOUBLE PRECISION NOT NULL
);
CREATE INDEX answers_search ON answers (search, tracklet, seq);
CREATE INDEX answers_tracklet ON answers (tracklet);
CREATE TABLE exports (
  id TEXT PRIMARY KEY,
  case_id TEXT NOT NULL,
  account TEXT NOT NULL,
  reason TEXT NOT NULL,
  at_s DOUBLE PRECISION NOT NULL,
  sha256 TEXT NOT NULL,
  tracklets TEXT NOT NULL
);
CREATE TABLE jobs (
  id TEXT PRIMARY KEY,
  kind TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed')),
  account TEXT NOT NULL,
  reason TEXT NOT NULL,
  input TEXT NOT NULL,
  report TEXT,
  created_s DOUBLE PRECISION NOT NULL,
  finished_s DOUBLE PRECISION
);
CREATE TABLE retention (camera TEXT PRIMARY KEY, days INTEGER NOT NULL);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sources (
  id TEXT PRIMARY KEY,
  camera TEXT NOT NULL UNIQUE,
  archive TEXT NOT NULL,
  address TEXT NOT NULL,
  detector TEXT NOT NULL,
  enabled INTEGER NOT NULL,
  created_s DOUBLE PRECISION NOT NULL
);
CREATE TABLE watch_entries (
  id TEXT PRIMARY KEY,
  search TEXT NOT NULL REFERENCES searches (id) ON DELETE CASCADE,
  account TEXT NOT NULL,
  reason TEXT NOT NULL,
  threshold DOUBLE PRECISION NOT NULL,
  ends_s DOUBLE PRECISION NOT NULL,
  webhook TEXT NOT NULL,
  secret TEXT NOT NULL,
  seen_s DOUBLE PRECISION NOT NULL,
  created_s DOUBLE PRECISION NOT NULL
);
CREATE TABLE alerts (
  id TEXT PRIMARY KEY,
  entry TEXT NOT NULL REFERENCES watch_entries (id) ON DELETE CASCADE,
  tracklet TEXT NOT NULL,
  score DOUBLE PRECISION NOT NULL,
  at_s DOUBLE PRECISION NOT NULL,
  tries INTEGER NOT NULL,
  next_try_s DOUBLE PRECISION NOT NULL,
  delivered_s DOUBLE PRECISION,
  error TEXT,
  UNIQUE (entry, tracklet)
);
CREATE TABLE idempotency (
  digest TEXT PRIMARY KEY,
  request TEXT NOT NULL,
  status INTEGER,
  content_type TEXT,
  body BYTES,
  created_s DOUBLE PRECISION NOT NULL
);
CREATE TABLE attributes (
  tracklet TEXT NOT NULL,
  head TEXT NOT NULL,
  probabilities TEXT NOT NULL,
  PRIMARY KEY (tracklet, head)
);
