package httpapi

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"forebay/wal/message"
)

// Usage is the answer to GET /v1/usage: how many of the account's messages of a
// month have come to which status, by day (UTC) and channel. Test messages
// and callbacks are not counted.
type Usage struct {
	Account string     `json:"account"`
	Month   string     `json:"month"` // 2026-11
	Total   uint64     `json:"total"`
	Data    []UsageDay `json:"data"` // by day, channel and status
}

// UsageDay is one count of a Usage.
type UsageDay struct {
	Day     string `json:"day"` // 2026-11-23
	Channel string `json:"channel"`
	Status  string `json:"status"`
	Final   bool   `json:"final"`
	Count   uint64 `json:"count"`
}

// UsageOf renders counts of a month.
func UsageOf(account string, month time.Time, counts []message.UsageCount) Usage {
	u := Usage{Account: account, Month: month.Format("2006-01"), Data: make([]UsageDay, 0, len(counts))}
	for _, c := range counts {
		u.Total += c.Count
		u.Data = append(u.Data, UsageDay{c.Day.Format(time.DateOnly), c.Channel.String(), c.Status.String(), c.Status.Final(), c.Count})
	}
	return u
}

// CSV renders the counts as RFC 4180 with a line of names. Nothing in it is a
// client's word, so nothing needs to be disarmed for spreadsheets.
func (u Usage) CSV() []byte {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	_ = w.Write([]string{"day", "channel", "status", "count"}) // into memory: it cannot fail
	for _, d := range u.Data {
		_ = w.Write([]string{d.Day, d.Channel, d.Status, strconv.FormatUint(d.Count, 10)})
	}
	w.Flush()
	return b.Bytes()
}

const typeCSV = "text/csv"

var valuesCSV = []string{typeCSV + "; charset=utf-8; header=present"}

// usage answers GET /v1/usage?month=2026-11&format=csv.
func (a *API) usage(x *exchange) error {
	who, err := a.authenticate(x)
	if err != nil {
		return err
	}
	if p := a.spare(x); p != nil {
		return p
	}
	if a.cfg.Life == nil {
		return errNoLife
	}
	month, format, p := usageParameters(x.r.URL.RawQuery)
	if p != nil {
		return p
	}
	asCSV := format == "csv" || format == "" && prefersCSV(x.r.Header[headerAccept])
	if format == "" && !asCSV {
		if p := checkAccept(x.r.Header, typeJSON); p != nil {
			p.Detail = "The answer is " + typeJSON + " or " + typeCSV + "."
			return p
		}
	}
	from, to, ok := monthOf(month, time.Now())
	if !ok {
		return &Problem{Code: CodeInvalid, Detail: "A parameter breaks its rule.",
			Errors: []FieldError{{Parameter: "month", Detail: "must be a month, such as 2026-11"}}}
	}
	counts, err := a.cfg.Life.Usage(x.r.Context(), message.UsageQuery{Account: who.Account, From: from, To: to})
	if err != nil {
		return fmt.Errorf("count usage: %w", err)
	}
	u := UsageOf(who.Account, from, counts)
	if !asCSV {
		return x.writeJSON(u)
	}
	h := x.w.Header()
	h[headerContentType] = valuesCSV
	h["Cache-Control"] = valuesNoStore
	h["Content-Disposition"] = []string{`attachment; filename="usage-` + u.Month + `.csv"`}
	x.write(200, u.CSV())
	return nil
}

func usageParameters(raw string) (month, format string, p *Problem) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return "", "", malformed("The query string cannot be read.")
	}
	for name, v := range values {
		if name != "month" && name != "format" || len(v) != 1 {
			p := malformed("The query string has a parameter that is not known, or one twice.")
			p.Errors = []FieldError{{Parameter: name, Detail: "is not one of month, format, once"}}
			return "", "", p
		}
	}
	format = values.Get("format")
	if format != "" && format != "json" && format != "csv" {
		return "", "", &Problem{Code: CodeInvalid, Detail: "A parameter breaks its rule.",
			Errors: []FieldError{{Parameter: "format", Detail: "must be json or csv"}}}
	}
	return values.Get("month"), format, nil
}

// prefersCSV reports whether a client names CSV and not JSON, or takes only CSV.
func prefersCSV(accept []string) bool {
	asCSV, takesCSV := accepts(accept, typeCSV)
	asJSON, takesJSON := accepts(accept, typeJSON)
	return takesCSV && (!takesJSON || asCSV == rangeType && asJSON < rangeType)
}
