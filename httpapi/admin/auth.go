package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"net/http"
	"strings"
)

// Token is the admin token. It never prints itself.
type Token struct {
	sum [sha256.Size]byte // what is compared: equal lengths, so equal times
	set bool
}

// NewToken makes a Token of its text; surrounding white space, as files have it
// at their end, does not count. Empty text is no token.
func NewToken(text string) Token {
	text = strings.TrimSpace(text)
	if text == "" {
		return Token{}
	}
	return Token{sum: sha256.Sum256([]byte(text)), set: true}
}

// IsSet reports whether there is a token.
func (t Token) IsSet() bool { return t.set }

func (t Token) matches(text string) bool {
	sum := sha256.Sum256([]byte(text))
	return subtle.ConstantTimeCompare(sum[:], t.sum[:]) == 1 && t.set
}

// String implements fmt.Stringer.
func (t Token) String() string { return "[redacted]" }

// LogValue implements slog.LogValuer.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// authenticator names who sends a request, or refuses it with a *Problem.
type authenticator func(*http.Request) (actor string, err error)

type actorKey struct{}

// WithActor names who is at the other end of a connection to the admin socket.
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// peerOnly takes the kernel's word, which came with the connection.
func peerOnly(r *http.Request) (string, error) {
	if actor, ok := r.Context().Value(actorKey{}).(string); ok {
		return actor, nil
	}
	return "", Refuse(CodeForbidden, "the kernel does not say who is calling")
}

// tokenOnly wants the admin token, as a bearer or as the password of any user.
// The user's name is logged as what it is: a claim.
func (h *Handler) tokenOnly(r *http.Request) (string, error) {
	if !h.token.Load().IsSet() {
		return "", Refuse(CodeForbidden, "no admin token is configured (http.admin_token_file); use the admin socket")
	}
	if user, password, ok := r.BasicAuth(); ok && h.token.Load().matches(password) {
		if len(user) > 64 {
			user = user[:64]
		}
		return "token(" + user + ")", nil
	}
	if token, ok := bearer(r.Header.Get("Authorization")); ok && h.token.Load().matches(token) {
		return "token", nil
	}
	return "", Refuse(CodeUnauthenticated, "show the admin token")
}

func bearer(header string) (string, bool) {
	scheme, token, ok := strings.Cut(header, " ")
	return strings.TrimSpace(token), ok && strings.EqualFold(scheme, "Bearer")
}

// closed asks who before anything but health. It compares whole paths: what is
// spelled otherwise is not health.
func (h *Handler) closed(who authenticator, next http.Handler) http.Handler {
	ask := h.serve("", who, func(x *exchange) error {
		x.begun = true // next answers, and logs what it does
		next.ServeHTTP(x.w, x.r)
		return nil
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" || r.URL.Path == "/readyz" {
			next.ServeHTTP(w, r)
			return
		}
		ask.ServeHTTP(w, r)
	})
}

// crossOrigin refuses a change that another site's page makes a browser send: a
// browser adds the password it was once given by itself.
func crossOrigin(r *http.Request) error {
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return Refuse(CodeForbidden, "changes cannot come from another site's page")
	}
	return nil
}
