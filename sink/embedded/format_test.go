package embedded

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"forebay/wal/message"
)

func anyRecord(t *rapid.T) message.Record {
	m := message.Message{Account: rapid.String().Draw(t, "account"), Channel: message.ChannelStore, Body: rapid.String().Draw(t, "body")}
	id := message.NewID(rapid.Uint64Range(0, 1<<48-1).Draw(t, "ms"), 1, rapid.Uint16Min(1).Draw(t, "node"), message.Normal, rapid.Uint64().Draw(t, "random"))
	return message.Record{ID: id, Seq: rapid.Uint64().Draw(t, "seq"), Message: m,
		State: message.State{Status: message.Stored, HoldReason: rapid.String().Draw(t, "hold reason")}}
}

// TestDamageIsSeen: no flipped bit and no other length in a value goes unseen,
// nor does a sound value under another key.
func TestDamageIsSeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRecord(t)
		var b block
		for _, seq := range rapid.SliceOf(rapid.Uint64Range(0, blockSpan-1)).Draw(t, "seqs") {
			b.set(seq, true, seq%2 == 0)
		}
		values := map[string]struct {
			key, value []byte
			decode     func(key, value []byte) (any, error)
			want       any
		}{
			"record": {messageKey(r.ID), appendRecord(nil, messageKey(r.ID), &r), func(k, v []byte) (any, error) { return decodeRecord(k, v) }, r},
			"claim":  {claimKey("a", "k"), appendClaim(claimKey("a", "k"), r.ID), func(k, v []byte) (any, error) { return decodeClaim(k, v) }, r.ID},
			"block": {blockKey(1, 7), b.append(nil, blockKey(1, 7)), func(k, v []byte) (any, error) {
				b, err := decodeBlock(k, v)
				if err != nil {
					return nil, err
				}
				return [2][blockWords]uint64{b.present, b.final}, nil
			}, [2][blockWords]uint64{b.present, b.final}},
		}
		for name, c := range values {
			got, err := c.decode(c.key, c.value)
			if err != nil {
				t.Fatalf("decode %s: %v", name, err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
			bit := rapid.IntRange(0, 8*len(c.value)-1).Draw(t, "bit")
			c.value[bit/8] ^= 1 << (bit % 8)
			if _, err := c.decode(c.key, c.value); err == nil {
				t.Errorf("%s with bit %d flipped is not seen to be damaged", name, bit)
			}
			c.value[bit/8] ^= 1 << (bit % 8)
			cut := rapid.IntRange(0, len(c.value)-1).Draw(t, "cut")
			if _, err := c.decode(c.key, c.value[:cut]); err == nil {
				t.Errorf("%s cut to %d bytes is not seen to be damaged", name, cut)
			}
			c.key[len(c.key)-1] ^= 1
			if _, err := c.decode(c.key, c.value); err == nil {
				t.Errorf("%s under another key is not seen to be damaged", name)
			}
		}
	})
}

// TestBlock: a block counts what was set, in any range.
func TestBlock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b block
		state := make(map[uint64]int) // 1: present, 2: final
		for _, seq := range rapid.SliceOf(rapid.Uint64Range(0, blockSpan-1)).Draw(t, "seqs") {
			state[seq] = rapid.IntRange(0, 2).Draw(t, "state")
			b.set(seq+5*blockSpan, state[seq] > 0, state[seq] == 2)
		}
		first, last := rapid.Uint64Range(0, blockSpan-1).Draw(t, "first"), rapid.Uint64Range(0, blockSpan-1).Draw(t, "last")
		var stored, final uint64
		for seq := first; seq <= last; seq++ {
			if b.has(seq) != (state[seq] > 0) {
				t.Errorf("has %d: %v", seq, b.has(seq))
			}
			if state[seq] > 0 {
				stored++
			}
			if state[seq] == 2 {
				final++
			}
		}
		if s, f := b.count(first, last); first <= last && (s != stored || f != final) {
			t.Errorf("count %d to %d = %d, %d, want %d, %d", first, last, s, f, stored, final)
		}
	})
}

// FuzzRecord: whatever is on disk, decoding ends in a record or an error.
func FuzzRecord(f *testing.F) {
	r := message.Record{ID: message.NewID(1, 1, 1, message.Normal, 1), Seq: 1, Message: message.Message{Account: "a", Channel: message.ChannelStore},
		State: message.State{Status: message.Stored}}
	key := messageKey(r.ID)
	f.Add(appendRecord(nil, key, &r))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, value []byte) {
		if len(value) > recordHead { // past the checksum, or nothing else would be tried
			fixSum(key, value)
		}
		if got, err := decodeRecord(key, value); err == nil && got.ID != r.ID {
			t.Errorf("decoded %v", got.ID)
		}
	})
}

// fixSum makes a value verify.
func fixSum(key, value []byte) {
	binary.BigEndian.PutUint32(value[4:], uint32(len(value)-recordHead))
	binary.BigEndian.PutUint32(value, sum(key, value[4:]))
}
