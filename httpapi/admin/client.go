package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	dialTimeout = 5 * time.Second
	// maxAnswer bounds what the client reads of an answer other than a backup.
	maxAnswer = 64 << 20
)

// Client calls /admin/v1 of a running appliance. It is safe for concurrent use.
// A refusal comes back as a *Problem.
type Client struct {
	http  *http.Client
	base  string // without a slash at the end
	token string // empty: the socket says who we are
	what  string // what it connects to, for errors
}

// NewSocketClient returns a client over the admin socket at path.
func NewSocketClient(path string) *Client {
	dialer := net.Dialer{Timeout: dialTimeout}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		},
	}
	return &Client{http: newHTTPClient(transport), base: "http://forebay", what: "admin socket " + path}
}

// NewClient returns a client over the ops listener at server, an http or https
// URL, that shows token.
func NewClient(server, token string) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("server %q: want a URL such as http://127.0.0.1:9090", server)
	}
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout: dialTimeout,
	}
	base := u.Scheme + "://" + u.Host + strings.TrimRight(u.EscapedPath(), "/")
	return &Client{http: newHTTPClient(transport), base: base, token: token, what: base}, nil
}

func newHTTPClient(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport: transport,
		// The appliance never redirects; a token must not follow one that something else sends.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Accounts lists every account.
func (c *Client) Accounts(ctx context.Context) ([]Account, error) {
	var list AccountList
	err := c.call(ctx, http.MethodGet, "/accounts", nil, &list)
	return list.Data, err
}

// Account returns one account.
func (c *Client) Account(ctx context.Context, id string) (a Account, err error) {
	err = c.call(ctx, http.MethodGet, "/accounts/"+url.PathEscape(id), nil, &a)
	return a, err
}

// CreateAccount creates an account.
func (c *Client) CreateAccount(ctx context.Context, body CreateAccount) (a Account, err error) {
	err = c.call(ctx, http.MethodPost, "/accounts", body, &a)
	return a, err
}

// PatchAccount changes an account and returns it as it then is.
func (c *Client) PatchAccount(ctx context.Context, id string, body PatchAccount) (a Account, err error) {
	err = c.call(ctx, http.MethodPatch, "/accounts/"+url.PathEscape(id), body, &a)
	return a, err
}

// DeleteAccount deletes an account and all of its keys.
func (c *Client) DeleteAccount(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/accounts/"+url.PathEscape(id), nil, nil)
}

// Keys lists an account's keys, revoked ones too.
func (c *Client) Keys(ctx context.Context, account string) ([]Key, error) {
	var list KeyList
	err := c.call(ctx, http.MethodGet, "/accounts/"+url.PathEscape(account)+"/keys", nil, &list)
	return list.Data, err
}

// CreateKey makes a key; its secret is in the answer and nowhere else.
func (c *Client) CreateKey(ctx context.Context, account string, body CreateKey) (k CreatedKey, err error) {
	err = c.call(ctx, http.MethodPost, "/accounts/"+url.PathEscape(account)+"/keys", body, &k)
	return k, err
}

// RevokeKey takes a key out of force, for good, whichever account it belongs to.
func (c *Client) RevokeKey(ctx context.Context, keyID string) (k Key, err error) {
	err = c.call(ctx, http.MethodDelete, "/keys/"+url.PathEscape(keyID), nil, &k)
	return k, err
}

// Message returns one message, of any account.
func (c *Client) Message(ctx context.Context, id string) (m jsontext.Value, err error) {
	err = c.call(ctx, http.MethodGet, "/messages/"+url.PathEscape(id), nil, &m)
	return m, err
}

// Messages lists messages, newest first.
func (c *Client) Messages(ctx context.Context, q MessageQuery) (page MessagePage, err error) {
	values := url.Values{}
	for name, value := range map[string]string{"account": q.Account, "status": q.Status, "channel": q.Channel,
		"to": q.To, "client_ref": q.ClientRef, "cursor": q.Cursor} {
		if value != "" {
			values.Set(name, value)
		}
	}
	for name, t := range map[string]time.Time{"accepted_after": q.AcceptedAfter, "accepted_before": q.AcceptedBefore} {
		if !t.IsZero() {
			values.Set(name, t.UTC().Format(time.RFC3339Nano))
		}
	}
	if q.Limit != 0 {
		values.Set("limit", strconv.Itoa(q.Limit))
	}
	err = c.call(ctx, http.MethodGet, withQuery("/messages", values), nil, &page)
	return page, err
}

// Audit counts what became of the messages accepted since then; zero: of all.
func (c *Client) Audit(ctx context.Context, since time.Time) (a Audit, err error) {
	values := url.Values{}
	if !since.IsZero() {
		values.Set("since", since.UTC().Format(time.RFC3339Nano))
	}
	err = c.call(ctx, http.MethodGet, withQuery("/audit", values), nil, &a)
	return a, err
}

// Status says how the appliance is doing.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	err = c.call(ctx, http.MethodGet, "/status", nil, &s)
	return s, err
}

// Drain starts the graceful stop and returns once it has begun.
func (c *Client) Drain(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/drain", nil, nil)
}

// Backup writes a backup of the log to w while the appliance runs, and returns
// its size. With an error, what was written is not a backup.
func (c *Client) Backup(ctx context.Context, w io.Writer) (int64, error) {
	resp, err := c.do(ctx, http.MethodGet, "/backup", nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, c.refusal(resp)
	}
	n, err := io.Copy(w, resp.Body)
	if err != nil {
		return n, fmt.Errorf("copy backup: %w", err)
	}
	return n, nil
}

// call sends body as JSON and decodes the answer into answer; nil for neither.
func (c *Client) call(ctx context.Context, method, path string, body, answer any) error {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return c.refusal(resp)
	}
	if answer == nil {
		return nil
	}
	if err := json.UnmarshalRead(io.LimitReader(resp.Body, maxAnswer), answer); err != nil {
		return fmt.Errorf("decode answer to %s %s: %w", method, path, err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		content = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+"/admin/v1"+path, content)
	if err != nil {
		return nil, fmt.Errorf("build request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var urlErr *url.Error
		if errors.As(err, &urlErr) {
			err = urlErr.Err // its text would repeat the made-up URL of the socket
		}
		return nil, fmt.Errorf("call appliance at %s (is it running?): %w", c.what, err)
	}
	return resp, nil
}

// refusal reads the problem out of an answer. What did not come from the
// appliance (a proxy's page) becomes a problem with code "unexpected".
func (c *Client) refusal(resp *http.Response) error {
	problem := &Problem{Status: resp.StatusCode}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind == "application/problem+json" {
		if err := json.UnmarshalRead(io.LimitReader(resp.Body, 1<<20), problem); err == nil && problem.Code != "" {
			return problem
		}
	}
	return &Problem{Status: resp.StatusCode, Code: "unexpected", Title: http.StatusText(resp.StatusCode),
		Detail: fmt.Sprintf("%s answered %s, which is no answer of the appliance's", c.what, resp.Status)}
}

func withQuery(path string, values url.Values) string {
	if len(values) == 0 {
		return path
	}
	return path + "?" + values.Encode()
}
