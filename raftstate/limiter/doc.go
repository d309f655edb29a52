// Package limiter holds accounts to their plans across a whole cluster without
// a round of consensus for each request.
//
// # Promise
//
// For an account with limits {Rate, Burst, Concurrent} and a window W:
//
//   - in every interval of length W, wherever it starts, at most Rate messages
//     are accepted by all nodes together;
//   - in every interval of length d, at most Burst + d·Rate/W are;
//   - at no moment are more than Concurrent requests in flight;
//   - what is refused has used up nothing.
//
// # How
//
// State is the replicated part, pure and the same on every node. It lends
// tokens and slots to nodes: a node's holding. Spender is the node's side: it
// spends its holding locally, in nanoseconds, and exchanges requests for answers
// with the State: what it has spent since, what it still holds, what it needs.
// A token is one message, a slot one request in flight.
//
// What a node holds counts as spent until the node reports otherwise. What it
// reports as spent counts from the stamp of the report, which is later than the
// spending. A node that is never heard of again keeps its holding counted until
// LeaseTime after its last exchange, plus the window.
//
// A holding is one for each account and node: the stock that stands ready
// (a tenth of the plan over all nodes, the floor that a node cut off from the
// group may still spend), and what the demand of the next 250 ms needs. Near
// its limit an account's stock is spent like any other token, so nothing of
// the plan is out of a client's reach.
//
// # Why the limit holds
//
// Cluster time is stamped by the leader and never runs faster than a clock that
// is at most 0.1 % fast; it may stand still at an election. A token is spent
// between its grant and the node's own deadline, which lies 10 % before the
// State's and is measured from before the request was first sent. So it is
// counted, from before its spending until W·1.002 after: the 0.2 % cover the
// drift of the leader's clock and that of whoever measures the window. The sum
// of what is counted is at or under Rate whenever a token is granted; so no
// window holds more. For the burst: what is held and what is in the bucket are
// together at most Burst at all times.
//
// The cost: a client at its limit gets less than its plan by what is rounded:
// 0.2 % for drift, half a sub-window (W/128), half a report (Rate/256; Rate/16 of
// what was spent while more than half of the plan was left, which also counts from
// up to half a minute later: reports are what the limits cost the group, and far
// from a limit they gather).
//
// # When to come again
//
// Who is refused is told after how long it would be let in, on whichever node: what
// the others hold and do not use they have given back by then (Reclaim).
//
// # Messages lost, late, twice
//
// A node has one request under way at a time, numbered within its session, and
// repeats it until it is answered; the State answers a repeat with what it
// answered first, and ignores any older one. A node that starts opens a new session,
// one higher than the last: its earlier process is dead then, so what that held
// counts as spent now and what it had in flight is over. A session that is not
// the node's newest is told so and gets nothing.
//
// # Limits that change
//
// Limits come with each call and each command from the replicated plans. A
// lowered one makes every node drop its stock as soon as it knows of the change,
// and what a grant from before brings; what was spent stays counted. Where more is
// in flight than there may be now, no node lets a request in until it is less.
//
// # Plans in shadow
//
// They refuse nothing and keep nobody waiting. A message for which the node holds
// no token goes and is owed one; the next answer says whether there was one, and
// else it is counted, once.
package limiter
