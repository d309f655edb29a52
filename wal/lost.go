package wal

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"forebay/wal/message"
)

// names tells the ids of messages of which a damaged log has only the numbers.
// Numbers and ids of a log rise together, so what is whole on either side of a
// number bounds its id; and of an id that is left without a record, in another
// record's key or in a key that cannot be read, it tells which number it had.
type names struct {
	known []landmark   // with their records, of any version: ascending once sorted
	live  []message.ID // without one, and not complete
	other []message.ID // without one: perhaps complete
}

// landmark is a number and the id that was issued with it.
type landmark struct {
	seq uint64
	id  message.ID
}

func (n *names) know(seq uint64, id message.ID) {
	if seq > 0 && !id.IsZero() {
		n.known = append(n.known, landmark{seq, id})
	}
}

// sort puts all in order, and drops the ids that have a number.
func (n *names) sort() {
	slices.SortFunc(n.known, func(a, b landmark) int { return cmp.Or(cmp.Compare(a.seq, b.seq), a.id.Compare(b.id)) })
	n.known = slices.Compact(n.known)
	n.other = append(n.other, n.live...)
	for _, ids := range []*[]message.ID{&n.live, &n.other} {
		slices.SortFunc(*ids, message.ID.Compare)
		*ids = slices.DeleteFunc(slices.Compact(*ids), func(id message.ID) bool {
			_, there := slices.BinarySearchFunc(n.known, id, func(k landmark, id message.ID) int { return k.id.Compare(id) })
			return there
		})
	}
}

// name makes a finding of each lost number, ascending, with all that is known of
// the message.
func (n *names) name(lost []uint64) []Finding {
	found := make([]Finding, 0, len(lost))
	for len(lost) > 0 {
		at, there := slices.BinarySearchFunc(n.known, lost[0], func(k landmark, seq uint64) int { return cmp.Compare(k.seq, seq) })
		if there { // by an older version of its record, from before it was put to rest or came back
			found = append(found, missing(Finding{Seq: lost[0], ID: n.known[at].id}))
			lost = lost[1:]
			continue
		}
		var before, after landmark // zero: nothing is known on that side
		if at > 0 {
			before = n.known[at-1]
		}
		together := len(lost) // of the lost ones lie between the two
		if at < len(n.known) {
			after = n.known[at]
			together, _ = slices.BinarySearch(lost, after.seq)
		}
		found = append(found, n.between(before, after, lost[:together])...)
		lost = lost[together:]
	}
	return found
}

// between names the lost numbers between two that are known. As many ids as
// numbers are theirs, one by one; else only the bounds are sure.
func (n *names) between(before, after landmark, lost []uint64) []Finding {
	live, other := inside(n.live, before.id, after.id), inside(n.other, before.id, after.id)
	found := make([]Finding, len(lost))
	for i, seq := range lost {
		f := Finding{Seq: seq}
		switch {
		case len(live) == len(lost):
			f.ID = live[i]
		case after.seq > 0 && uint64(len(other)) == after.seq-before.seq-1:
			f.ID = other[seq-before.seq-1]
		default:
			f.After, f.Before = before.id, after.id
		}
		found[i] = missing(f)
	}
	return found
}

// missing says of a lost message what is known of it.
func missing(f Finding) Finding {
	f.Kind = FindMissing
	f.Text = "accepted, not known to be complete, and not readable" + f.accepted()
	return f
}

// inside are the ids between two, of which either may be missing.
func inside(ids []message.ID, after, before message.ID) []message.ID {
	from, there := slices.BinarySearchFunc(ids, after, message.ID.Compare)
	if there {
		from++
	}
	to := len(ids)
	if !before.IsZero() {
		to, _ = slices.BinarySearchFunc(ids, before, message.ID.Compare)
	}
	return ids[from:max(from, to)]
}

// accepted says when the message of a finding was accepted, as far as its id or
// those around it tell.
func (f Finding) accepted() string {
	at := func(id message.ID) string { return id.Time().Format(time.RFC3339Nano) }
	switch {
	case !f.ID.IsZero():
		return "; accepted at " + at(f.ID)
	case !f.After.IsZero() && !f.Before.IsZero():
		return fmt.Sprintf("; accepted from %s to %s", at(f.After), at(f.Before))
	case !f.After.IsZero():
		return "; accepted at " + at(f.After) + " or later"
	case !f.Before.IsZero():
		return "; accepted at " + at(f.Before) + " or earlier"
	}
	return ""
}
