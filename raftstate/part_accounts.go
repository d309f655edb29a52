package raftstate

import (
	"sync/atomic"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"forebay/raftstate/account"
)

// accountsPart is the part that says who may use the appliance. Requests are
// authenticated from its directory, without the machine's lock.
type accountsPart struct {
	*account.State
	directory atomic.Pointer[directory]
	changed   func(account string) // told when an account may have another plan
}

var _ part = (*accountsPart)(nil)

func newAccountsPart() *accountsPart {
	p := &accountsPart{changed: func(string) {}}
	p.become(account.NewState())
	return p
}

func (p *accountsPart) become(s *account.State) {
	p.State = s
	p.directory.Store(newDirectory(s))
}

func (p *accountsPart) name() string { return "accounts" }

func (p *accountsPart) kinds() map[uint8]string {
	names := make(map[uint8]string, len(account.Kinds))
	for _, k := range account.Kinds {
		names[uint8(k)] = k.String()
	}
	return names
}

func (p *accountsPart) apply(kind uint8, body []byte, _ uint64) (any, error) {
	cmd, err := account.Decode(account.Kind(kind), body)
	if err != nil {
		return nil, err
	}
	result := p.State.Apply(cmd)
	p.directory.Load().follow(p.State, cmd, result)
	p.tell(cmd)
	return result, nil
}

// tell passes on whose plan may have changed.
func (p *accountsPart) tell(cmd account.Command) {
	switch cmd := cmd.(type) {
	case account.UpdateAccount:
		p.changed(cmd.ID)
	case account.SetPlans:
		for id := range p.directory.Load().holders {
			p.changed(id)
		}
	}
}

func (p *accountsPart) remembers(uint8) bool { return true }

func (p *accountsPart) decodeAnswer(_ uint8, text jsontext.Value) (any, error) {
	var result account.Result
	err := json.Unmarshal(text, &result, json.RejectUnknownMembers(true))
	return result, err
}

func (p *accountsPart) snapshot() section { return p.State.Snapshot() }

func (p *accountsPart) restore(dec *jsontext.Decoder) (func(), error) {
	s := account.NewState()
	if dec != nil {
		var err error
		if s, err = account.DecodeState(dec); err != nil {
			return nil, err
		}
	}
	return func() { p.become(s) }, nil
}
