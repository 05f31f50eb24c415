-- The whole model from the first day on: accounts, devices, chats, messages, generations and their log.
-- Times that decide something (leases, expiries of the log) are the database's own: one clock for all processes.

CREATE TABLE users (
    id              uuid PRIMARY KEY,
    email           text NOT NULL,
    username        text NOT NULL,
    password_hash   text,
    is_active       boolean NOT NULL DEFAULT true,
    is_guest        boolean NOT NULL DEFAULT false,
    expires_at      timestamptz,
    last_event_seq  bigint NOT NULL DEFAULT -1,
    version         integer NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL DEFAULT now(),
    last_login_at   timestamptz
);
-- Two spellings of one address are one account.
CREATE UNIQUE INDEX users_email_key ON users (lower(email));
CREATE INDEX users_expiry ON users (expires_at) WHERE expires_at IS NOT NULL;

-- A device session is a family of refresh tokens: one log-in on one device.
CREATE TABLE device_sessions (
    id                   uuid PRIMARY KEY,
    user_id              uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    user_agent           text NOT NULL DEFAULT '',
    address              text NOT NULL DEFAULT '',
    created_at           timestamptz NOT NULL,
    last_used_at         timestamptz NOT NULL,
    idle_expires_at      timestamptz NOT NULL,
    absolute_expires_at  timestamptz NOT NULL,
    revoked_at           timestamptz,
    revoked_reason       text
);
CREATE INDEX device_sessions_user ON device_sessions (user_id, last_used_at DESC);

CREATE TABLE refresh_tokens (
    hash        bytea PRIMARY KEY,
    session_id  uuid NOT NULL REFERENCES device_sessions ON DELETE CASCADE,
    generation  integer NOT NULL,
    created_at  timestamptz NOT NULL,
    rotated_at  timestamptz,
    -- A fork would need two tokens of one generation in one family.
    CONSTRAINT refresh_tokens_generation_key UNIQUE (session_id, generation)
);

-- Search (docs/search.md says why it is made like this, with figures).
--
-- The terms of a text: its words, and for scripts that write no spaces (CJK, Thai, …) each pair of neighbours and the last
-- character of a run. The replaced characters are those by which PostgreSQL's parser would make one word of an address,
-- a compound or a tag. 50,000 characters keep a vector below PostgreSQL's limit of 1 MB whatever the terms are.
-- PARALLEL RESTRICTED: starting workers takes 7 ms, a search one.
CREATE FUNCTION search_terms(content text, asked boolean DEFAULT false) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL RESTRICTED STRICT COST 5000 AS $$
DECLARE
    spaceless CONSTANT text := '\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3105-\u312f'
        '\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff';
    plain text := left(content, 50000);
    pairs text[] := '{}';
BEGIN
    IF octet_length(plain) <> length(plain) THEN
        IF plain IS NOT NFKC NORMALIZED THEN
            plain := left(normalize(plain, NFKC), 50000);
        END IF;
        IF plain ~ ('[' || spaceless || ']') THEN
            -- A question leaves the last character of a run out, for it need not be the last one in the text.
            pairs := ARRAY(
                SELECT DISTINCT symbol || CASE WHEN following = ' ' THEN '' ELSE following END
                FROM (
                    SELECT symbol, lag(symbol, 1, ' ') OVER (ORDER BY n) AS preceding,
                           lead(symbol, 1, ' ') OVER (ORDER BY n) AS following
                    FROM string_to_table(regexp_replace(plain, '[^' || spaceless || ']+', ' ', 'g'), NULL)
                         WITH ORDINALITY AS symbols (symbol, n)
                ) AS neighbours
                WHERE symbol <> ' ' AND NOT (asked AND following = ' ' AND preceding <> ' ')
            );
            plain := regexp_replace(plain, '[' || spaceless || ']+', ' ', 'g');
        END IF;
    END IF;
    plain := replace(replace(replace(replace(plain, '-', ' '), '.', ' '), '/', ' '), '@', ' ');
    plain := replace(replace(replace(plain, '<', ' '), '&', ' '), '+', ' ');
    RETURN pairs || tsvector_to_array(to_tsvector('simple', plain));
END $$;

-- Each term begins with its owner's mark: a person's terms lie together in the index, so that a search costs what that
-- person's texts cost, a prefix too. Two owners with one mark are told apart by `user_id` in the query.
CREATE FUNCTION search_vector(owner uuid, content text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL RESTRICTED STRICT COST 5000
RETURN array_to_tsvector(ARRAY(
    SELECT right(owner::text, 8) || left(term, 64) FROM unnest(search_terms(content)) AS terms (term)
));

-- All terms must be there; the last word may go on, and so may a single character of a script without spaces, which the
-- texts have as the first of a pair. NULL when there is nothing to search for.
CREATE FUNCTION search_query(owner uuid, question text) RETURNS tsquery
LANGUAGE sql IMMUTABLE PARALLEL RESTRICTED STRICT
RETURN (
    SELECT string_agg(
        '''' || replace(replace(right(owner::text, 8) || left(term, 64), '\', '\\'), '''', '''''') || ''''
        || CASE WHEN is_last OR (length(term) = 1 AND octet_length(term) > 2) THEN ':*' ELSE '' END, ' & '
    )::tsquery
    FROM (
        SELECT unnest(search_terms(regexp_replace(question, '\S+\s*$', ''), true)), false
        UNION ALL
        SELECT unnest(search_terms(substring(question FROM '\S+\s*$'), true)), true
    ) AS terms (term, is_last)
);

CREATE TABLE chats (
    id             uuid PRIMARY KEY,
    user_id        uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    title          text NOT NULL,
    title_source   text NOT NULL DEFAULT 'default' CHECK (title_source IN ('default', 'user', 'text', 'model')),
    model_used     text NOT NULL DEFAULT '',
    parameters     jsonb NOT NULL DEFAULT '{}',
    last_sequence  integer NOT NULL DEFAULT 0,
    message_count  integer NOT NULL DEFAULT 0,
    leaf_id        uuid,
    version        integer NOT NULL DEFAULT 1,
    archived_at    timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 85);
CREATE INDEX chats_list ON chats (user_id, updated_at DESC, id DESC) WHERE archived_at IS NULL;
CREATE INDEX chats_list_all ON chats (user_id, updated_at DESC, id DESC);
CREATE INDEX chats_search ON chats USING gin (search_vector(user_id, title)) WITH (fastupdate = off);
ALTER INDEX chats_search ALTER COLUMN 1 SET STATISTICS 0;

CREATE TABLE messages (
    id               uuid PRIMARY KEY,
    chat_id          uuid NOT NULL REFERENCES chats ON DELETE CASCADE,
    user_id          uuid NOT NULL,
    parent_id        uuid,
    sequence_number  integer NOT NULL,
    role             text NOT NULL CHECK (role IN ('user', 'assistant', 'system')),
    status           text NOT NULL DEFAULT 'completed'
                     CHECK (status IN ('streaming', 'completed', 'stopped', 'failed', 'interrupted')),
    content          text NOT NULL DEFAULT '',
    reasoning        text NOT NULL DEFAULT '',
    model            text NOT NULL DEFAULT '',
    tokens           integer NOT NULL DEFAULT 0,
    generation_id    uuid,
    created_at       timestamptz NOT NULL DEFAULT now(),
    -- All numbers from `run_start` to this one are its ancestors: a branch is read as a few ranges, not link by link.
    run_start        integer NOT NULL,
    CONSTRAINT messages_sequence_key UNIQUE (chat_id, sequence_number)
);
CREATE INDEX messages_search ON messages USING gin (search_vector(user_id, content)) WITH (fastupdate = off);
ALTER INDEX messages_search ALTER COLUMN 1 SET STATISTICS 0;

CREATE FUNCTION set_run_start() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT run_start INTO NEW.run_start FROM messages
    WHERE id = NEW.parent_id AND chat_id = NEW.chat_id AND sequence_number = NEW.sequence_number - 1;
    NEW.run_start := coalesce(NEW.run_start, NEW.sequence_number);
    RETURN NEW;
END $$;
CREATE TRIGGER messages_run_start BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION set_run_start();

CREATE TABLE nodes (
    id           uuid PRIMARY KEY,
    name         text NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT now(),
    lease_until  timestamptz NOT NULL,
    -- Set once, by whoever takes the node's work over; from then on every write of the node fails.
    fenced_at    timestamptz
);

CREATE TABLE generations (
    id                 uuid PRIMARY KEY,
    user_id            uuid NOT NULL,
    chat_id            uuid NOT NULL REFERENCES chats ON DELETE CASCADE,
    message_id         uuid NOT NULL UNIQUE,
    user_message_id    uuid NOT NULL,
    session_id         uuid,
    status             text NOT NULL DEFAULT 'queued'
                       CHECK (status IN ('queued', 'running', 'completed', 'stopped', 'failed', 'interrupted')),
    epoch              integer NOT NULL DEFAULT 1,
    owner_node         uuid,
    model              text NOT NULL,
    parameters         jsonb NOT NULL DEFAULT '{}',
    prompt             jsonb,
    upstream           text NOT NULL DEFAULT '',
    prefix             text NOT NULL DEFAULT '',
    -- Only a key that the server derived asks whether the end was written to a reader.
    derived_key        boolean NOT NULL DEFAULT false,
    last_seq           integer,
    finish_reason      text,
    error_code         text,
    stop_requested_at  timestamptz,
    delivered_at       timestamptz,
    created_at         timestamptz NOT NULL DEFAULT now(),
    started_at         timestamptz,
    finished_at        timestamptz
) WITH (fillfactor = 70);
-- I7: at most one answer in the making in a chat.
CREATE UNIQUE INDEX generations_one_active_per_chat ON generations (chat_id) WHERE status IN ('queued', 'running');
CREATE INDEX generations_active_of_user ON generations (user_id) WHERE status IN ('queued', 'running');
CREATE INDEX generations_active_of_node ON generations (owner_node) WHERE status IN ('queued', 'running');
CREATE INDEX generations_chat ON generations (chat_id, created_at DESC);

-- The answer log. A UUIDv7 begins with its time, so ranges of generation ids are ranges of time: whole hours are dropped
-- without a DELETE, every event of a generation lies in one partition, and the key is unique over all of them.
-- No foreign key: a check per event would cost as much as the event; orphans go with their partition.
CREATE TABLE generation_events (
    generation_id  uuid NOT NULL,
    seq            integer NOT NULL,
    payload        text NOT NULL,
    PRIMARY KEY (generation_id, seq)
) PARTITION BY RANGE (generation_id);
CREATE TABLE generation_events_default PARTITION OF generation_events DEFAULT;

-- I6: accounting outlives the chat it belongs to.
CREATE TABLE usage (
    generation_id  uuid PRIMARY KEY,
    user_id        uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    model          text NOT NULL,
    day            date NOT NULL,
    input_tokens   integer NOT NULL,
    output_tokens  integer NOT NULL,
    estimated      boolean NOT NULL,
    cost           numeric(14, 8),
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX usage_of_user ON usage (user_id, day);

CREATE TABLE idempotency_keys (
    user_id        uuid NOT NULL,
    chat_id        uuid NOT NULL REFERENCES chats ON DELETE CASCADE,
    key            text NOT NULL,
    fingerprint    bytea NOT NULL,
    generation_id  uuid NOT NULL,
    expires_at     timestamptz NOT NULL,
    -- The chat first: its deletion looks here.
    PRIMARY KEY (chat_id, user_id, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

CREATE TABLE user_events (
    user_id     uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    seq         bigint NOT NULL,
    payload     text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, seq)
);
CREATE INDEX user_events_age ON user_events (created_at);

CREATE TABLE stream_tickets (
    hash           bytea PRIMARY KEY,
    generation_id  uuid NOT NULL REFERENCES generations ON DELETE CASCADE,
    user_id        uuid NOT NULL,
    session_id     uuid NOT NULL,
    expires_at     timestamptz NOT NULL
);
CREATE INDEX stream_tickets_generation ON stream_tickets (generation_id);

-- Counters of the rate limits that must hold over all processes. Losing them in a crash is harmless, hence UNLOGGED.
CREATE UNLOGGED TABLE rate_counters (
    key         text NOT NULL,
    window_end  timestamptz NOT NULL,
    count       integer NOT NULL,
    PRIMARY KEY (key, window_end)
);
CREATE INDEX rate_counters_expiry ON rate_counters (window_end);
