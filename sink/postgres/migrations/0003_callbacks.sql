-- Callbacks are messages of ours, not of the account: they are not counted.

ALTER TABLE messages ADD COLUMN callback boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN messages.callback IS 'tells of another message''s status';

DROP INDEX messages_account;
CREATE INDEX messages_account ON messages (account, id) INCLUDE (channel, status, test, callback);
COMMENT ON TABLE usage IS 'How many messages (without test messages and callbacks) of a day whose partition was dropped had come to which status';
