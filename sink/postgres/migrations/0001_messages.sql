-- What the appliance stores. Teams behind it read these tables; nobody but the
-- appliance writes them.

-- A range of ids is a range of time, because the first six bytes of an id are
-- its time of acceptance in ms. So the key that makes an insert repeatable is
-- also the one that lets a whole day be dropped.
CREATE TABLE messages (
    id              uuid        NOT NULL,
    seq             bigint      NOT NULL,
    accepted_at     timestamptz NOT NULL,
    stored_at       timestamptz NOT NULL,
    node            integer     NOT NULL,
    test            boolean     NOT NULL,
    account         text        NOT NULL,
    channel         text        NOT NULL,
    priority        text        NOT NULL,
    status          text        NOT NULL,
    recipient       text,
    subject         text,
    body            text,
    html            text,
    template        json,
    client_ref      text,
    metadata        json,
    callback_url    text,
    idempotency_key text,
    fingerprint     bytea,
    trace_parent    text,
    request_id      text,
    send_at         timestamptz,
    ttl_seconds     integer,
    scheduled_at    timestamptz,
    sent_at         timestamptz,
    delivered_at    timestamptz,
    read_at         timestamptz,
    failed_at       timestamptz,
    next_attempt_at timestamptz,
    hold_reason     text,
    provider_id     text,
    duplicate_of    uuid,
    error           json,
    attempts        json,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

COMMENT ON TABLE messages IS 'Every message that forebay accepted, one partition a day (UTC); empty text is NULL';
COMMENT ON COLUMN messages.id IS 'UUIDv7; sorts by time of acceptance';
COMMENT ON COLUMN messages.node IS 'number of the appliance that accepted the message';
COMMENT ON COLUMN messages.seq IS 'dense number of acceptance on that appliance, from 1';
COMMENT ON COLUMN messages.status IS 'accepted, queued, sending, sent, delivered, read, undelivered, failed, rejected, canceled, expired, duplicate, scheduled or stored';
COMMENT ON COLUMN messages.duplicate_of IS 'the message that had the idempotency key first';

-- json and not jsonb: it takes every text that a message may have, in less time.

CREATE INDEX messages_account ON messages (account, id);
CREATE INDEX messages_client_ref ON messages (account, client_ref, id) WHERE client_ref IS NOT NULL;
-- A recipient may be a long URL, and an index entry has to fit a third of a page.
CREATE INDEX messages_recipient ON messages (account, left(recipient, 200), id) WHERE recipient IS NOT NULL;
-- Most messages end well; those that did not are looked for.
CREATE INDEX messages_status ON messages (status, id) WHERE status NOT IN ('stored', 'sent', 'delivered', 'read');
-- The audit: which numbers are there, and which are not.
CREATE INDEX messages_seq ON messages (node, seq);
-- Almost free, as rows come in the order of stored_at: for retention, and for
-- readers that follow the table.
CREATE INDEX messages_stored_at ON messages USING brin (stored_at);

-- Who has an idempotency key. Unpartitioned: a key must be unique over all days.
CREATE TABLE claims (
    account     text        NOT NULL,
    key         text        NOT NULL,
    id          uuid        NOT NULL,
    fingerprint bytea       NOT NULL,
    accepted_at timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (account, key)
);
CREATE INDEX claims_expires_at ON claims (expires_at);
COMMENT ON TABLE claims IS 'The message that has an idempotency key; rows go when they have expired';

-- What messages refused. Nothing here can be refused in its turn: payload and
-- state are bytes as the log has them, and the texts are cleaned copies.
CREATE TABLE set_aside (
    id        uuid        NOT NULL PRIMARY KEY,
    seq       bigint      NOT NULL,
    stored_at timestamptz NOT NULL,
    node      integer     NOT NULL,
    account   text        NOT NULL,
    reason    text        NOT NULL,
    payload   bytea       NOT NULL,
    state     bytea       NOT NULL
);
CREATE INDEX set_aside_seq ON set_aside (node, seq);
COMMENT ON TABLE set_aside IS 'Messages that this database refused to store as rows of messages, and why';
