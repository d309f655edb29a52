package loadtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/url"

	"forebay/wal/message"
)

// refDigits is how wide the number in a client_ref is; it is written over in
// place, so all are as wide.
const refDigits = 12

// requests renders message i: a head by key, and a rest by priority and size,
// with the number of the message written over.
type requests struct {
	seed       uint64
	refPrefix  string
	heads      [][]byte
	rests      [][]byte // by priority, then size
	refAt      []int    // where in the rest the digits are
	priorities []int    // cumulated weights
	sizes      []int
}

func newRequests(c Config, u *url.URL) *requests {
	r := &requests{seed: c.Seed, refPrefix: fmt.Sprintf("bench-%016x-", c.Seed)}
	for _, key := range c.Keys {
		r.heads = append(r.heads, fmt.Appendf(nil,
			"POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n", c.Path, u.Host, key))
	}
	random := rand.New(rand.NewPCG(c.Seed, 1))
	for _, p := range c.Priorities {
		for _, s := range c.Sizes {
			rest, at := r.rest(c, p.Value, s.Value, random)
			r.rests, r.refAt = append(r.rests, rest), append(r.refAt, at)
		}
	}
	r.priorities, r.sizes = cumulate(c.Priorities), cumulate(c.Sizes)
	return r
}

func (r *requests) rest(c Config, p message.Priority, size int, random *rand.Rand) (rest []byte, refAt int) {
	to := ""
	if c.To != "" {
		to = fmt.Sprintf(`"to":%q,`, c.To)
	}
	body := fmt.Appendf(nil, `{"channel":%q,%s"priority":%q,"client_ref":"%s%0*d","body":"`, c.Channel, to, p, r.refPrefix, refDigits, 0)
	// Text that compresses about as text does, not a run of one letter.
	const letters = "eeeeeeetttttaaaaooooiiinnnsssrrhhdlucmfygpwbvk     "
	for range size {
		body = append(body, letters[random.IntN(len(letters))])
	}
	body = append(body, `"}`...)
	rest = fmt.Appendf(nil, "Content-Length: %d\r\n\r\n%s", len(body), body)
	marker := []byte(r.refPrefix)
	return rest, bytes.Index(rest, marker) + len(marker)
}

func cumulate[T any](shares []Share[T]) []int {
	sums := make([]int, len(shares))
	total := 0
	for i, s := range shares {
		total += s.Weight
		sums[i] = total
	}
	return sums
}

// append writes request i to dst.
func (r *requests) append(dst []byte, i uint64) []byte {
	h := mix(r.seed + i*0x9e3779b97f4a7c15)
	variant := pick(r.priorities, uint32(h))*len(r.sizes) + pick(r.sizes, uint32(h>>32))
	dst = append(dst, r.heads[i%uint64(len(r.heads))]...)
	ref := len(dst) + r.refAt[variant]
	dst = append(dst, r.rests[variant]...)
	putDigits(dst[ref:ref+refDigits], i)
	return dst
}

// ref is the client_ref of message i.
func (r *requests) ref(dst []byte, i uint64) []byte {
	dst = append(dst, r.refPrefix...)
	dst = append(dst, "000000000000"...)
	putDigits(dst[len(dst)-refDigits:], i)
	return dst
}

func putDigits(dst []byte, n uint64) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = '0' + byte(n%10)
		n /= 10
	}
}

// pick chooses an index by cumulated weights.
func pick(sums []int, random uint32) int {
	n := int(uint64(random) * uint64(sums[len(sums)-1]) >> 32)
	for i, sum := range sums {
		if n < sum {
			return i
		}
	}
	return len(sums) - 1
}

// mix is the finalizer of splitmix64 (Steele, Lea, Flood 2014).
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
