package httpapi

import (
	"sync"
	"time"
)

// policies keeps the RateLimit-Policy field of every plan: it is the same in
// every answer. There are few plans; changed ones are forgotten all at once.
type policies struct {
	mu     sync.RWMutex // guards fields
	fields map[policyKey][]string
}

type policyKey struct {
	plan   Plan
	window time.Duration
}

const maxPolicies = 1000

func (p *policies) of(plan Plan, q *Quota) []string {
	key := policyKey{plan, q.Window}
	p.mu.RLock()
	field := p.fields[key]
	p.mu.RUnlock()
	if field != nil {
		return field
	}
	field = []string{policyField(plan, q)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fields == nil || len(p.fields) >= maxPolicies {
		p.fields = map[policyKey][]string{}
	}
	p.fields[key] = field
	return field
}
