package account

import (
	"crypto/sha256"
	"encoding/base32"
)

// The text of a key, 73 characters:
//
//	fb_live_ · id, 12 characters · _ · secret, 52 characters
//	fb_test_
//
// The id is public and is how a key is found; the secret, 256 random bits, is
// held only as its SHA-256. A slow hash would add nothing: nobody can guess 256
// bits, and it would cost every request. The prefix lets scanners of code find
// keys that were committed by mistake.
const (
	prefixLive = "fb_live_"
	prefixTest = "fb_test_"

	idLength     = 12
	secretLength = 52
	keyLength    = len(prefixLive) + idLength + 1 + secretLength

	// RandomBytes is how many random bytes MintKey needs: 8 for the id, of
	// which 60 bits are used, and 32 for the secret.
	RandomBytes = 8 + 32
)

const alphabet = "abcdefghijklmnopqrstuvwxyz234567"

// Hash is the SHA-256 of a key's secret part.
type Hash [sha256.Size]byte

// MintKey makes a key out of random bytes: its id, its hash, and its whole text,
// which the caller shows once and forgets.
func MintKey(random [RandomBytes]byte, test bool) (id string, hash Hash, text string) {
	encoding := base32.NewEncoding(alphabet).WithPadding(base32.NoPadding)
	id = encoding.EncodeToString(random[:8])[:idLength]
	secret := encoding.EncodeToString(random[8:])
	prefix := prefixLive
	if test {
		prefix = prefixTest
	}
	return id, HashSecret(secret), prefix + id + "_" + secret
}

// ParseKey takes the text of a key apart, and reports whether it has the form
// of one. It copies nothing.
func ParseKey(text string) (id, secret string, test, ok bool) {
	if len(text) != keyLength || text[len(prefixLive)+idLength] != '_' {
		return "", "", false, false
	}
	switch text[:len(prefixLive)] {
	case prefixLive:
	case prefixTest:
		test = true
	default:
		return "", "", false, false
	}
	id = text[len(prefixLive):][:idLength]
	return id, text[keyLength-secretLength:], test, true
}

// HashSecret returns the hash that a key with this secret part has.
func HashSecret(secret string) Hash {
	// The bytes stay on the stack, so authenticating a request allocates nothing.
	var buf [secretLength]byte
	return sha256.Sum256(append(buf[:0], secret...))
}

func validKeyID(v string) bool {
	if len(v) != idLength {
		return false
	}
	for i := range len(v) {
		if c := v[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}
