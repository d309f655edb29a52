package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"forebay/sink"
	"forebay/wal/message"
)

// maxLimit is the largest Query.Limit.
const maxLimit = 1000

// Get implements sink.Store.
func (s *Store) Get(ctx context.Context, account string, id message.ID) (message.Record, error) {
	var found []message.Record
	err := s.do(ctx, "get", func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "/* get */ SELECT "+recordColumns+" FROM messages WHERE id = $1", [16]byte(id))
		if err != nil {
			return err
		}
		if found, err = pgx.CollectRows(rows, scanRecord); err != nil || len(found) > 0 {
			return err
		}
		found, err = queryAside(ctx, conn, "/* get set aside */ "+asideSQL+" WHERE id = $1", [16]byte(id))
		return err
	})
	switch {
	case err != nil:
		return message.Record{}, err
	case len(found) == 0, account != "" && found[0].Account != account:
		return message.Record{}, sink.ErrNotFound
	}
	return found[0], nil
}

// List implements sink.Store.
func (s *Store) List(ctx context.Context, q message.Query) (message.Page, error) {
	if q.Limit < 1 || q.Limit > maxLimit {
		return message.Page{}, fmt.Errorf("list: limit %d is not within 1 and %d", q.Limit, maxLimit)
	}
	var page message.Page
	err := s.do(ctx, "list", func(ctx context.Context, conn *pgx.Conn) error {
		sql, args := listSQL(q)
		rows, err := conn.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		if page.Records, err = pgx.CollectRows(rows, scanRecord); err != nil {
			return err
		}
		if q.Status == 0 || q.Status == message.Failed {
			aside, err := listAside(ctx, conn, q)
			if err != nil {
				return err
			}
			page.Records = append(page.Records, aside...)
			slices.SortFunc(page.Records, func(a, b message.Record) int { return b.ID.Compare(a.ID) })
		}
		return nil
	})
	if err != nil {
		return message.Page{}, err
	}
	if len(page.Records) > q.Limit {
		page.Records, page.More = page.Records[:q.Limit], true
	}
	return page, nil
}

// conditions collects the parts of a WHERE clause and their arguments.
type conditions struct {
	parts []string
	args  []any
}

// add adds a condition; a ? in it stands for the argument.
func (c *conditions) add(part string, arg any) {
	c.args = append(c.args, arg)
	c.parts = append(c.parts, strings.ReplaceAll(part, "?", placeholder(len(c.args))))
}

func (c *conditions) where() string {
	if len(c.parts) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.parts, " AND ")
}

// status adds what a query says about the status, see message.State.StatusAt.
func (c *conditions) status(q message.Query) {
	const queued, scheduled = message.Queued, message.Scheduled
	switch {
	case q.Status == 0:
	case q.Status == queued && !q.At.IsZero():
		c.add("status IN ("+quoted(queued)+", "+quoted(scheduled)+") AND (status = "+quoted(queued)+" OR scheduled_at <= ?)", q.At)
	case q.Status == scheduled && !q.At.IsZero():
		c.add("status = "+quoted(scheduled)+" AND scheduled_at > ?", q.At)
	default:
		c.parts = append(c.parts, "status = "+quoted(q.Status))
	}
}

// within adds what a query says about ids, which is also all it says about times.
func (c *conditions) within(q message.Query) {
	if !q.AcceptedAfter.IsZero() {
		c.add("id >= ?", [16]byte(idAt(ceilMillis(q.AcceptedAfter))))
	}
	if !q.AcceptedBefore.IsZero() {
		c.add("id < ?", [16]byte(idAt(ceilMillis(q.AcceptedBefore))))
	}
	if !q.Before.IsZero() {
		c.add("id < ?", [16]byte(q.Before))
	}
}

// ceilMillis is the first ms that is not before t.
func ceilMillis(t time.Time) int64 {
	ms := t.UnixMilli()
	if t.After(time.UnixMilli(ms)) {
		ms++
	}
	return ms
}

// listSQL builds the statement of a query. Values of clients are arguments; what
// is one of few names of ours is written out, see quoted.
func listSQL(q message.Query) (string, []any) {
	var c conditions
	if q.Account != "" {
		c.add("account = ?", q.Account)
	}
	c.status(q)
	if q.Channel != 0 {
		c.parts = append(c.parts, "channel = "+quoted(q.Channel))
	}
	if q.To != "" {
		c.add("left(recipient, 200) = left(?::text, 200) AND recipient = ?", q.To)
	}
	if q.ClientRef != "" {
		c.add("client_ref = ?", q.ClientRef)
	}
	c.within(q)
	return "/* list */ SELECT " + recordColumns + " FROM messages" + c.where() +
		" ORDER BY id DESC LIMIT " + placeholder(len(c.args)+1), append(c.args, q.Limit+1)
}

// listAside lists messages that were set aside, up to one more than the limit.
// They are few; what they are is inside their payload, so they are sifted here.
func listAside(ctx context.Context, conn *pgx.Conn, q message.Query) ([]message.Record, error) {
	var list []message.Record
	for {
		var c conditions
		if q.Account != "" {
			c.add("account = ?", cleaned(q.Account))
		}
		c.within(q)
		c.parts = append(c.parts, "NOT EXISTS (SELECT FROM messages m WHERE m.id = set_aside.id)")
		found, err := queryAside(ctx, conn, "/* list set aside */ "+asideSQL+c.where()+" ORDER BY id DESC LIMIT "+
			placeholder(len(c.args)+1), append(c.args, maxLimit)...)
		if err != nil {
			return nil, err
		}
		for _, r := range found {
			if (q.Account == "" || r.Account == q.Account) && (q.Channel == 0 || r.Channel == q.Channel) &&
				(q.To == "" || r.To == q.To) && (q.ClientRef == "" || r.ClientRef == q.ClientRef) {
				list = append(list, r)
			}
		}
		if len(found) < maxLimit || len(list) > q.Limit {
			return list[:min(len(list), q.Limit+1)], nil
		}
		q.Before = found[len(found)-1].ID
	}
}
