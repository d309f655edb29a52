package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"forebay/httpapi/admin"
)

// submission is the body of POST /v1/messages.
type submission struct {
	Channel     string            `json:"channel"`
	To          string            `json:"to,omitzero"`
	Body        string            `json:"body,omitzero"`
	Subject     string            `json:"subject,omitzero"`
	HTML        string            `json:"html,omitzero"`
	Priority    string            `json:"priority,omitzero"`
	SendAt      string            `json:"send_at,omitzero"`
	TTLSeconds  *int              `json:"ttl_seconds,omitzero"` // nil: that of the configuration
	ClientRef   string            `json:"client_ref,omitzero"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	CallbackURL string            `json:"callback_url,omitzero"`
}

// sender is where messages go and with which key; send and bench share it.
type sender struct{ url, keyFile string }

func (s *sender) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.url, "url", "", "`URL` of the public API (default $FOREBAY_URL, else http://127.0.0.1:8080)")
	cmd.Flags().StringVar(&s.keyFile, "key-file", "", "`FILE` with the API key (default: the key in $FOREBAY_KEY)")
}

func (s *sender) baseURL(a *app) string {
	return strings.TrimRight(cmp.Or(s.url, a.env("FOREBAY_URL"), "http://127.0.0.1:8080"), "/")
}

// keys returns the API keys, one a line of the file.
func (s *sender) keys(a *app) ([]string, error) {
	if s.keyFile == "" {
		if key := a.env("FOREBAY_KEY"); key != "" {
			return []string{key}, nil
		}
		return nil, usagef("no API key: add --key-file FILE or set FOREBAY_KEY; `forebay key create ACCOUNT` makes one")
	}
	content, err := os.ReadFile(s.keyFile)
	if err != nil {
		return nil, fmt.Errorf("read API key: %w", err)
	}
	keys := strings.Fields(string(content))
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s holds no API key; `forebay key create ACCOUNT` makes one", s.keyFile)
	}
	return keys, nil
}

func (a *app) env(name string) string {
	for _, entry := range slices.Backward(a.environ) {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

func (a *app) sendCommand() *cobra.Command {
	var s sender
	var m submission
	var idempotencyKey string
	var wait, ttl int
	cmd := &cobra.Command{Use: "send [TEXT]", Short: "Send a message through the public API; TEXT - is standard input", Args: atMostOne("TEXT")}
	flags := cmd.Flags()
	s.flags(cmd)
	flags.StringVar(&m.Channel, "channel", "store", "store, whatsapp, email or webhook")
	flags.StringVar(&m.To, "to", "", "the `RECIPIENT`: +49…, an address, an https URL")
	flags.StringVar(&m.Subject, "subject", "", "of an email")
	flags.StringVar(&m.HTML, "html", "", "of an email")
	flags.StringVar(&m.Priority, "priority", "", "critical, high, normal or low")
	flags.StringVar(&m.SendAt, "send-at", "", "not before this `TIME` (RFC 3339)")
	flags.IntVar(&ttl, "ttl", 0, "`SECONDS` for which it is worth sending")
	flags.StringVar(&m.ClientRef, "client-ref", "", "your own `REFERENCE`")
	flags.StringToStringVar(&m.Metadata, "metadata", nil, "`KEY=VALUE`, several with commas or repeated")
	flags.StringVar(&m.CallbackURL, "callback-url", "", "https `URL` that is told of its status changes")
	flags.StringVar(&idempotencyKey, "idempotency-key", "", "`KEY` under which it is taken only once")
	flags.IntVar(&wait, "wait", 0, "`SECONDS` to wait until it is in the database, at most 30")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if flags.Changed("wait") && (wait < 1 || wait > 30) {
			return usagef("--wait %d is out of range; write 1 to 30", wait)
		}
		if flags.Changed("ttl") {
			m.TTLSeconds = &ttl
		}
		keys, err := s.keys(a)
		if err != nil {
			return err
		}
		if len(args) == 1 {
			if m.Body, err = a.text(args[0]); err != nil {
				return err
			}
		}
		header := http.Header{"Authorization": {"Bearer " + keys[0]}, "Content-Type": {"application/json"}}
		if idempotencyKey != "" {
			header.Set("Idempotency-Key", idempotencyKey)
		}
		if wait > 0 {
			header.Set("Prefer", fmt.Sprintf("wait=%d", wait))
		}
		answer, err := post(cmd.Context(), s.baseURL(a)+"/v1/messages", header, m)
		if err != nil {
			return err
		}
		var broken error
		err = a.print(answer, func(w io.Writer) { broken = object(w, answer) })
		return errors.Join(err, broken)
	}
	return cmd
}

// maxText bounds what is read from standard input; the API's own bound is less.
const maxText = 4 << 20

func (a *app) text(arg string) (string, error) {
	if arg != "-" {
		return arg, nil
	}
	content, err := io.ReadAll(io.LimitReader(a.stdin, maxText))
	if err != nil {
		return "", fmt.Errorf("read standard input: %w", err)
	}
	return string(content), nil
}

// post submits the message; a refusal is returned as an *admin.Problem, which
// has the same shape in both APIs.
func post(ctx context.Context, url string, header http.Header, m submission) (jsontext.Value, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, usagef("the message is not valid UTF-8: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, usagef("--url: %w", err)
	}
	req.Header = header
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("send message (is the appliance running there? --url or FOREBAY_URL name another place): %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode/100 == 2 && jsontext.Value(answer).IsValid() {
		return answer, nil
	}
	problem := &admin.Problem{}
	if json.Unmarshal(answer, problem) != nil || problem.Code == "" {
		return nil, fmt.Errorf("%s answered %s, which is no answer of the appliance's; check --url", url, resp.Status)
	}
	if after := resp.Header.Get("Retry-After"); after != "" {
		return nil, fmt.Errorf("refused for now, try again in %s s: %w", after, problem)
	}
	return nil, problem
}
