package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// Hook takes what WhatsApp's servers send. It knows the secrets and the format;
// this package carries bytes.
type Hook interface {
	// Subscription answers the check of who owns the hook: the challenge to send
	// back, and whether the request has the token.
	Subscription(query url.Values) (challenge string, ok bool)
	// Receive takes one body with its signature, and returns when what it says is
	// durable. It does not keep the body. ErrForged: the signature is not of this
	// body. ErrMalformed: it is genuine and says nothing that can be read.
	Receive(ctx context.Context, signature string, body []byte) error
}

// The errors of Hook.Receive.
var (
	ErrForged    = errors.New("not signed by the app's secret")
	ErrMalformed = errors.New("malformed")
)

const (
	// maxHookBytes bounds a body: Meta batches up to 1,000 updates, 3 MB at most.
	maxHookBytes = 4 << 20
	// hookShare: bodies of hooks may take an eighth of what those of clients may,
	// or two bodies if that is more.
	hookShare = 8
)

const headerHubSignature = "X-Hub-Signature-256"

// hookCheck answers GET /hooks/whatsapp.
func (a *API) hookCheck(x *exchange) error {
	if a.cfg.Hook == nil {
		return ErrNotFound
	}
	challenge, ok := a.cfg.Hook.Subscription(x.r.URL.Query())
	if !ok {
		return &Problem{Code: CodeForbidden, Detail: "This is no subscription check with the right verify token."}
	}
	h := x.w.Header()
	h[headerContentType] = valuesPlainText
	h["X-Content-Type-Options"] = valuesNoSniff
	x.write(http.StatusOK, []byte(challenge))
	return nil
}

// hookReceive answers POST /hooks/whatsapp: 200 after what is reported is
// durable, and anything else makes Meta send it again. The body is read whole
// before its signature can be checked: anybody may send one. So these bodies have
// a room of their own, and take none from those of clients.
func (a *API) hookReceive(x *exchange) error {
	if a.cfg.Hook == nil {
		return ErrNotFound
	}
	signature := first(x.r.Header, headerHubSignature)
	if signature == "" {
		return &Problem{Code: CodeForbidden, Detail: "The body is not signed.", Close: true}
	}
	buf, p := a.hooks.read(x.r)
	if p != nil {
		return p
	}
	defer a.hooks.put(buf)
	switch err := a.cfg.Hook.Receive(x.r.Context(), signature, buf.b); {
	case errors.Is(err, ErrForged):
		return &Problem{Code: CodeForbidden, Detail: "The signature is not of this body."}
	case errors.Is(err, ErrMalformed):
		return malformed("The body cannot be read as status updates.")
	case err != nil:
		return fmt.Errorf("take reports: %w", err)
	}
	h := x.w.Header()
	h[headerContentType] = valuesPlainText
	x.write(http.StatusOK, []byte("ok\n"))
	return nil
}
