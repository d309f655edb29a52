package httpapi

import (
	"context"
	"time"

	"forebay/wal/message"
)

// Pressure is how hard the appliance is pressed. Each level includes what those
// below it ask for.
type Pressure uint8

// The levels.
const (
	PressureNormal   Pressure = iota
	PressureElevated          // all is accepted; answers say so
	PressureHigh              // priority low and lists are refused, batches slowed
	PressureCritical          // only priority critical is accepted
	PressureFull              // nothing is accepted, and no body is read
	PressureStorage           // the same, because the disk limit is reached
)

// headerPressure tells clients to slow down before they are refused.
const headerPressure = "Forebay-Pressure"

var valuesPressure = [...][]string{
	PressureElevated: {"elevated"},
	PressureHigh:     {"high"},
	PressureCritical: {"critical"},
	PressureFull:     {"critical"},
	PressureStorage:  {"critical"},
}

// retryAfter is what a client that was shed is asked to wait: longer where more
// has to clear.
var retryAfter = [...]time.Duration{
	PressureHigh:     2 * time.Second,
	PressureCritical: 5 * time.Second,
	PressureFull:     5 * time.Second,
	PressureStorage:  5 * time.Second,
}

// batchPause is the pause before each line of a batch, which slows its client by
// the window of its connection.
var batchPause = [...]time.Duration{
	PressureHigh:     10 * time.Millisecond,
	PressureCritical: 50 * time.Millisecond,
	PressureFull:     50 * time.Millisecond,
	PressureStorage:  50 * time.Millisecond,
}

func shed(level Pressure, detail string) *Problem {
	return &Problem{Code: CodeOverloaded, Detail: detail, RetryAfter: retryAfter[level]}
}

// pressed notes the level of this moment in the answer, and returns it.
func (a *API) pressed(x *exchange) Pressure {
	level := a.cfg.Pressure()
	if level > PressureNormal {
		x.w.Header()[headerPressure] = valuesPressure[level]
	}
	return level
}

// refuseUnread refuses a submission before its body is read, where its priority
// can't change that.
func (a *API) refuseUnread(x *exchange) *Problem {
	level := a.pressed(x)
	if level < PressureFull {
		return nil
	}
	p := atLimit(x.r.Context(), level)
	p.Close = true // rather than reading the body
	return p
}

// shedByPriority refuses a message by its priority. The level is looked at again: much
// may have happened while the body came in.
func (a *API) shedByPriority(ctx context.Context, m *message.Message) *Problem {
	switch level := a.cfg.Pressure(); {
	case level < PressureHigh, level == PressureHigh && m.Priority != message.Low, level == PressureCritical && m.Priority == message.Critical:
		return nil
	case level >= PressureFull:
		return atLimit(ctx, level)
	case level == PressureCritical:
		return shed(level, "The appliance is under critical pressure and accepts only messages of priority critical.")
	default:
		return shed(level, "The appliance is under high pressure and accepts no messages of priority low.")
	}
}

// atLimit is the refusal at a hard limit.
func atLimit(ctx context.Context, level Pressure) *Problem {
	if level == PressureStorage {
		return problemOf(ctx, ErrStorageFull)
	}
	return shed(level, "The appliance is at its memory limit and accepts nothing.")
}

// spare refuses what is not the appliance's core (lists, counts, new feeds) while
// pressure is high.
func (a *API) spare(x *exchange) *Problem {
	if level := a.pressed(x); level >= PressureHigh {
		return shed(level, "The appliance is under pressure and lists nothing and opens no feed now. Single messages can be asked for.")
	}
	return nil
}

// slow waits before the next line of a batch while pressure is high.
func (b *batch) slow() {
	level := b.api.cfg.Pressure()
	if level < PressureHigh {
		return
	}
	timer := time.NewTimer(batchPause[level])
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-b.api.drainCtx.Done():
	case <-b.x.r.Context().Done():
	}
}
