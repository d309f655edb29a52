package whatsapp

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"forebay/wal/message"
)

// The body of POST /{version}/{phone number id}/messages.
type request struct {
	Product       string           `json:"messaging_product"`
	RecipientType string           `json:"recipient_type"`
	To            string           `json:"to"`
	Type          string           `json:"type"`
	Text          *requestText     `json:"text,omitzero"`
	Template      *requestTemplate `json:"template,omitzero"`
	// Callback comes back in every update of the message: our id.
	Callback string `json:"biz_opaque_callback_data"`
}

type requestText struct {
	PreviewURL bool   `json:"preview_url"`
	Body       string `json:"body"`
}

type requestTemplate struct {
	Name       string      `json:"name"`
	Language   language    `json:"language"`
	Components []component `json:"components,omitzero"`
}

type language struct {
	Code string `json:"code"`
}

type component struct {
	Type       string      `json:"type"`
	Parameters []parameter `json:"parameters"`
}

type parameter struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// render returns the body of the call for a message.
func render(id message.ID, m *message.Message) ([]byte, error) {
	r := request{Product: "whatsapp", RecipientType: "individual", To: m.To, Type: "text", Callback: id.String()}
	if t := m.Template; t != nil {
		r.Type = "template"
		r.Template = &requestTemplate{Name: t.Name, Language: language{t.Language}}
		if len(t.Parameters) > 0 {
			body := component{Type: "body"}
			for _, p := range t.Parameters {
				body.Parameters = append(body.Parameters, parameter{"text", p})
			}
			r.Template.Components = []component{body}
		}
	} else {
		r.Text = &requestText{Body: m.Body}
	}
	return json.Marshal(r)
}

// The answer: of a success the message's id, of an error its envelope. What is
// not needed is skipped, and what has an unexpected type spoils only itself: the
// API adds fields without notice.
type answer struct {
	Messages []struct {
		ID string `json:"id"`
	} `json:"messages"`
	Error *struct {
		Code      jsontext.Value `json:"code"`
		Subcode   jsontext.Value `json:"error_subcode"`
		Transient jsontext.Value `json:"is_transient"`
	} `json:"error"`
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 10

// reply is an answer as far as it was understood.
type reply struct {
	status      int
	id          string // of the message, at Meta
	code        int    // noCode: there was none
	subcode     int
	isTransient bool
	after       time.Duration
	readable    bool // it was read to its end and is JSON
}

func read(resp *http.Response, now time.Time) reply {
	r := reply{status: resp.StatusCode, code: noCode, after: askedWait(resp.Header, now)}
	if r.status == http.StatusSwitchingProtocols {
		return r // its body would be the bare connection, which no context ends
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	var a answer
	if err != nil || json.Unmarshal(bytes.TrimSpace(body), &a) != nil {
		return r
	}
	r.readable = true
	if len(a.Messages) > 0 {
		r.id = a.Messages[0].ID
	}
	if e := a.Error; e != nil {
		if code, err := strconv.Atoi(unquoted(e.Code)); err == nil {
			r.code = code
		}
		r.subcode, _ = strconv.Atoi(unquoted(e.Subcode))
		r.isTransient = unquoted(e.Transient) == "true"
	}
	return r
}

// unquoted lets "190" be 190.
func unquoted(v jsontext.Value) string { return string(bytes.Trim(v, `"`)) }

// maxWait bounds what the API may ask for.
const maxWait = 24 * time.Hour

// askedWait is the longest of what Retry-After and Meta's usage header ask for.
func askedWait(h http.Header, now time.Time) time.Duration {
	var wait time.Duration
	if text := h.Get("Retry-After"); text != "" {
		if n, err := strconv.ParseUint(text, 10, 31); err == nil {
			wait = time.Duration(n) * time.Second
		} else if at, err := http.ParseTime(text); err == nil {
			wait = at.Sub(now)
		}
	}
	// X-Business-Use-Case-Usage: per business account, in minutes.
	var usage map[string][]struct {
		Minutes int `json:"estimated_time_to_regain_access"`
	}
	if text := h.Get("X-Business-Use-Case-Usage"); text != "" && json.Unmarshal([]byte(text), &usage) == nil {
		for _, list := range usage {
			for _, u := range list {
				wait = max(wait, time.Duration(min(u.Minutes, 24*60))*time.Minute)
			}
		}
	}
	return min(max(wait, 0), maxWait)
}
