package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// secretPrefix marks a symmetric secret of Standard Webhooks.
const secretPrefix = "whsec_"

// The sizes that Standard Webhooks allows for a secret, in bytes.
const (
	minSecret = 24
	maxSecret = 64
)

var errSecret = errors.New("not a webhook secret: want whsec_ and 24 to 64 bytes in base64")

// parseSecret returns the key that a secret's text stands for.
func parseSecret(text string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	if !ok {
		return nil, errSecret
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(key) < minSecret || len(key) > maxSecret {
		return nil, errSecret // without the cause: it would quote the secret
	}
	return key, nil
}

// Sign returns the value of webhook-signature for a body that is sent under id
// at a moment: one signature for each secret, in their order. Standard Webhooks
// 1.0.0, symmetric ("v1").
func Sign(id string, at time.Time, body []byte, secrets ...string) (string, error) {
	if len(secrets) == 0 {
		return "", fmt.Errorf("sign webhook: %w", errSecret)
	}
	head := id + "." + strconv.FormatInt(at.Unix(), 10) + "."
	var out strings.Builder
	for i, secret := range secrets {
		key, err := parseSecret(secret)
		if err != nil {
			return "", fmt.Errorf("sign webhook: %w", err)
		}
		sum := hmac.New(sha256.New, key)
		sum.Write([]byte(head))
		sum.Write(body)
		if i > 0 {
			out.WriteByte(' ')
		}
		out.WriteString("v1,")
		out.WriteString(base64.StdEncoding.EncodeToString(sum.Sum(nil)))
	}
	return out.String(), nil
}
