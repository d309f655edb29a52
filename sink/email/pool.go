package email

import "time"

// takeIdle takes the connection that was used last, for it is the likeliest to
// be alive; nil: there is none. Connections that are past their time are closed.
func (c *Channel) takeIdle() *connection {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := len(c.idle); n > 0; n = len(c.idle) {
		conn := c.idle[n-1]
		c.idle = c.idle[:n-1]
		if conn.fresh(now) {
			return conn
		}
		c.work.Go(func() { conn.close(true) })
	}
	return nil
}

// put gives a connection back, or closes it.
func (c *Channel) put(conn *connection, good bool) {
	c.mu.Lock()
	keep := good && !c.closed && conn.fresh(time.Now())
	if keep {
		c.idle = append(c.idle, conn)
		c.sweepLocked()
	}
	c.mu.Unlock()
	if !keep {
		conn.close(good)
	}
}

// sweepLocked sees to it that what lies idle too long is closed, also when no
// mail comes any more.
func (c *Channel) sweepLocked() {
	if c.sweeper == nil {
		c.sweeper = time.AfterFunc(maxIdle, c.sweep)
	}
}

func (c *Channel) sweep() {
	now := time.Now()
	c.mu.Lock()
	c.sweeper = nil
	var old []*connection
	kept := c.idle[:0]
	for _, conn := range c.idle {
		if conn.fresh(now) {
			kept = append(kept, conn)
		} else {
			old = append(old, conn)
		}
	}
	clear(c.idle[len(kept):])
	c.idle = kept
	if len(kept) > 0 && !c.closed {
		c.sweepLocked()
	}
	if len(old) > 0 { // and so Close, which takes all that is idle, is yet to come
		c.work.Add(1)
		defer c.work.Done()
	}
	c.mu.Unlock()
	for _, conn := range old {
		conn.close(true)
	}
}
