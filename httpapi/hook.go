package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	// durable. ErrForged: the signature is not of this body. ErrMalformed:
	// it is genuine and says nothing that can be read.
	Receive(ctx context.Context, signature string, body []byte) error
}

// The errors of Hook.Receive.
var (
	ErrForged    = errors.New("not signed by the app's secret")
	ErrMalformed = errors.New("malformed")
)

// maxHookBytes bounds a body: Meta batches up to 1,000 updates, 3 MB at most.
const maxHookBytes = 4 << 20

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
// before its signature can be checked, so it counts against what may be buffered
// as any other does.
func (a *API) hookReceive(x *exchange) error {
	if a.cfg.Hook == nil {
		return ErrNotFound
	}
	signature := first(x.r.Header, headerHubSignature)
	if signature == "" {
		return &Problem{Code: CodeForbidden, Detail: "The body is not signed.", Close: true}
	}
	room := int64(maxHookBytes)
	if n := x.r.ContentLength; n > maxHookBytes {
		return &Problem{Code: CodeTooLarge, Detail: "The body is longer than any batch of updates.", Close: true}
	} else if n >= 0 {
		room = n
	}
	if !a.bodies.reserve(room) {
		return a.bodies.full()
	}
	defer a.bodies.release(room)
	body, err := io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, maxHookBytes))
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		return &Problem{Code: CodeTooLarge, Detail: "The body is longer than any batch of updates.", Close: true}
	case err != nil:
		return brokenBody(err)
	}
	switch err := a.cfg.Hook.Receive(x.r.Context(), signature, body); {
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
