package webhook

import (
	"strings"
	"testing"
	"time"
)

// TestSignature holds us to the vector of the specification's own repository.
func TestSignature(t *testing.T) {
	at, body := time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`)
	const want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	got, err := Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, body, oldSecret)
	if err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	got, err = Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, body, newSecret, oldSecret)
	if err != nil || !strings.HasPrefix(got, "v1,") || !strings.HasSuffix(got, " "+want) {
		t.Errorf("while rotating: got %q, %v", got, err)
	}
}

func TestSignatureNeedsAGoodSecret(t *testing.T) {
	for _, bad := range []string{"", "whsec_", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_%%%%"} {
		if _, err := Sign("id", time.Unix(1, 0), nil, bad); err == nil {
			t.Errorf("%q signs", bad)
		} else if len(bad) > 8 && strings.Contains(err.Error(), bad[6:]) {
			t.Errorf("the error quotes the secret: %v", err)
		}
	}
	if _, err := Sign("id", time.Unix(1, 0), nil); err == nil {
		t.Error("no secret signs")
	}
}
