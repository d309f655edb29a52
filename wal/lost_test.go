package wal

import (
	"testing"

	"forebay/wal/message"
)

// TestNamesOfLostMessages: an id is told only where it cannot be another's, and
// else the nearest ones that are known.
func TestNamesOfLostMessages(t *testing.T) {
	id := func(n uint64) message.ID { return message.NewID(1_700_000_000_000+n, 0, 7, message.Normal, n) }
	ids := func(ns ...uint64) (list []message.ID) {
		for _, n := range ns {
			list = append(list, id(n))
		}
		return list
	}
	type want struct{ is, after, before uint64 }
	for name, test := range map[string]struct {
		known       []uint64
		live, other []message.ID
		lost        []uint64
		want        []want
	}{
		"its own key":                            {[]uint64{1, 3}, ids(2), nil, []uint64{2}, []want{{is: 2}}},
		"two in a row":                           {[]uint64{1, 4}, ids(3, 2), nil, []uint64{2, 3}, []want{{is: 2}, {is: 3}}},
		"one of two":                             {[]uint64{1, 4}, ids(3), nil, []uint64{2, 3}, []want{{after: 1, before: 4}, {after: 1, before: 4}}},
		"the key of a client":                    {[]uint64{1, 3}, nil, ids(2), []uint64{2}, []want{{is: 2}}},
		"the key of a client, perhaps another's": {[]uint64{1, 4}, nil, ids(2), []uint64{2}, []want{{after: 1, before: 4}}},
		"keys of all between":                    {[]uint64{1, 4}, nil, ids(2, 3), []uint64{3}, []want{{is: 3}}},
		"nothing":                                {[]uint64{1, 3}, nil, nil, []uint64{2}, []want{{after: 1, before: 3}}},
		"at the end":                             {[]uint64{1}, nil, nil, []uint64{2}, []want{{after: 1}}},
		"at the beginning":                       {[]uint64{5}, nil, nil, []uint64{2}, []want{{before: 5}}},
		"in two places":                          {[]uint64{1, 3, 5}, ids(4), nil, []uint64{2, 4}, []want{{after: 1, before: 3}, {is: 4}}},
		"an id that has its number":              {[]uint64{1, 2, 4}, ids(2), nil, []uint64{3}, []want{{after: 2, before: 4}}},
		"an older version of its own":            {[]uint64{1, 2, 4}, nil, nil, []uint64{2, 3}, []want{{is: 2}, {after: 2, before: 4}}},
		"the last, in an older version":          {[]uint64{1, 2}, nil, nil, []uint64{2}, []want{{is: 2}}},
		"nothing is known":                       {nil, nil, nil, []uint64{1}, []want{{}}},
	} {
		t.Run(name, func(t *testing.T) {
			n := names{live: test.live, other: test.other}
			for _, seq := range test.known {
				n.know(seq, id(seq))
				n.know(seq, id(seq)) // an older version
			}
			n.sort()
			at := func(n uint64) message.ID {
				if n == 0 {
					return message.ID{}
				}
				return id(n)
			}
			got := n.name(test.lost)
			if len(got) != len(test.lost) {
				t.Fatalf("%d findings, want %d", len(got), len(test.lost))
			}
			for i, f := range got {
				if w := test.want[i]; f.Seq != test.lost[i] || f.ID != at(w.is) || f.After != at(w.after) || f.Before != at(w.before) {
					t.Errorf("got %+v, want %+v", f, w)
				}
			}
		})
	}
}
