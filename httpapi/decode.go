package httpapi

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"sync"

	"forebay/wal/message"

	"github.com/go-json-experiment/json/jsontext"
)

// field is a member of a message's JSON object.
type field uint8

const (
	fieldChannel field = iota
	fieldTo
	fieldSubject
	fieldBody
	fieldHTML
	fieldTemplate
	fieldPriority
	fieldSendAt
	fieldTTLSeconds
	fieldClientRef
	fieldMetadata
	fieldCallbackURL
)

// fieldPointers is in the order of the constants.
var fieldPointers = [...]string{"#/channel", "#/to", "#/subject", "#/body", "#/html", "#/template",
	"#/priority", "#/send_at", "#/ttl_seconds", "#/client_ref", "#/metadata", "#/callback_url"}

var templateFieldNames = [...]string{"name", "language", "parameters"}

func (f field) pointer() string { return fieldPointers[f] }

func fieldNames() []string {
	names := make([]string, len(fieldPointers))
	for i, p := range fieldPointers {
		names[i] = p[len("#/"):]
	}
	return names
}

// form is what a message's JSON says that is not yet in the message: words
// whose rules are still to be checked.
type form struct {
	channel  string
	priority string
	sendAt   string
	ttl      int64
	metadata int // how many pairs there were; only maxMetadata+1 are kept
	seen     uint16
}

func (in *form) has(f field) bool { return in.seen&(1<<f) != 0 }

// decoder reads a message's JSON strictly. It is pooled, and holds on to
// nothing of a message between two.
//
// Depth needs no limit of its own: a value of the wrong type is refused at its
// first byte, so the deepest thing that is read is a template's parameter.
type decoder struct {
	json    jsontext.Decoder
	source  bytes.Buffer
	options []jsontext.Options
	text    string // copy of the body: the message's strings are cut from it
	scratch []byte // for strings with escapes
}

var decoders = sync.Pool{New: func() any {
	// Duplicate names are found here, by a bit for each known field, which is
	// much cheaper than jsontext's set of names.
	return &decoder{options: []jsontext.Options{jsontext.AllowDuplicateNames(true)}}
}}

// maxPooledScratch bounds what a pooled decoder keeps for escaped strings.
const maxPooledScratch = 16 << 10

// decodeMessage reads body, which must be one JSON object of known fields, into
// m and in. It copies: nothing of m points into body.
func decodeMessage(body []byte, m *message.Message, in *form) *Problem {
	d := decoders.Get().(*decoder)
	d.text = string(body)
	d.source = *bytes.NewBuffer(body)
	d.json.Reset(&d.source, d.options...)
	problem := d.message(m, in)
	d.text, d.source = "", bytes.Buffer{}
	d.json.Reset(&d.source) // lets go of body
	if cap(d.scratch) > maxPooledScratch {
		d.scratch = nil
	}
	decoders.Put(d)
	return problem
}

func (d *decoder) message(m *message.Message, in *form) *Problem {
	if p := d.open('{', "#", "The body must be one JSON object."); p != nil {
		return p
	}
	for d.json.PeekKind() == '"' {
		name, p := d.string("#")
		if p != nil {
			return p
		}
		f, ok := parseField(name)
		if !ok {
			return unknownField("#", name, fieldNames())
		}
		if in.has(f) {
			return malformedAt(f.pointer(), "is there twice")
		}
		in.seen |= 1 << f
		if p := d.member(f, m, in); p != nil {
			return p
		}
	}
	if p := d.close(); p != nil {
		return p
	}
	if _, err := d.json.ReadToken(); !errors.Is(err, io.EOF) {
		return malformed("There is something behind the JSON object; send one message.")
	}
	return nil
}

func parseField(name string) (field, bool) {
	switch name { // a switch, for the compiler makes a search tree of it
	case "channel":
		return fieldChannel, true
	case "to":
		return fieldTo, true
	case "subject":
		return fieldSubject, true
	case "body":
		return fieldBody, true
	case "html":
		return fieldHTML, true
	case "template":
		return fieldTemplate, true
	case "priority":
		return fieldPriority, true
	case "send_at":
		return fieldSendAt, true
	case "ttl_seconds":
		return fieldTTLSeconds, true
	case "client_ref":
		return fieldClientRef, true
	case "metadata":
		return fieldMetadata, true
	case "callback_url":
		return fieldCallbackURL, true
	}
	return 0, false
}

func (d *decoder) member(f field, m *message.Message, in *form) (p *Problem) {
	switch f {
	case fieldTemplate:
		m.Template, p = d.template()
	case fieldMetadata:
		m.Metadata, in.metadata, p = d.metadata()
	case fieldTTLSeconds:
		in.ttl, p = d.integer(f.pointer())
	default:
		*stringField(f, m, in), p = d.string(f.pointer())
	}
	return p
}

func stringField(f field, m *message.Message, in *form) *string {
	switch f {
	case fieldChannel:
		return &in.channel
	case fieldPriority:
		return &in.priority
	case fieldSendAt:
		return &in.sendAt
	case fieldTo:
		return &m.To
	case fieldSubject:
		return &m.Subject
	case fieldHTML:
		return &m.HTML
	case fieldClientRef:
		return &m.ClientRef
	case fieldCallbackURL:
		return &m.CallbackURL
	default:
		return &m.Body
	}
}

func (d *decoder) template() (*message.Template, *Problem) {
	const at = "#/template"
	if p := d.open('{', at, "must be an object"); p != nil {
		return nil, p
	}
	t, seen := &message.Template{}, 0
	for d.json.PeekKind() == '"' {
		name, p := d.string(at)
		if p != nil {
			return nil, p
		}
		bit := 0
		switch name {
		case "name":
			bit = 1
			t.Name, p = d.string(at + "/name")
		case "language":
			bit = 2
			t.Language, p = d.string(at + "/language")
		case "parameters":
			bit = 4
			t.Parameters, p = d.strings(at + "/parameters")
		default:
			p = unknownField(at, name, templateFieldNames[:])
		}
		if p == nil && seen&bit != 0 {
			p = malformedAt(at+"/"+name, "is there twice")
		}
		if p != nil {
			return nil, p
		}
		seen |= bit
	}
	return t, d.close()
}

func (d *decoder) strings(at string) ([]string, *Problem) {
	if p := d.open('[', at, "must be an array of strings"); p != nil {
		return nil, p
	}
	var list []string
	for {
		switch d.json.PeekKind() {
		case ']':
			return list, d.close()
		case '"', 0: // a broken value is reported by string
			s, p := d.string(at)
			if p != nil {
				return nil, p
			}
			list = append(list, s)
		default:
			return nil, malformedAt(at+"/"+strconv.Itoa(len(list)), "must be a string")
		}
	}
}

// metadata reads an object of strings and returns it sorted, as the message
// keeps it. Pairs over the limit are counted, not kept: validation refuses them.
func (d *decoder) metadata() ([]message.Pair, int, *Problem) {
	const at = "#/metadata"
	if p := d.open('{', at, "must be an object of strings"); p != nil {
		return nil, 0, p
	}
	var pairs []message.Pair
	count := 0
	for d.json.PeekKind() == '"' {
		key, p := d.string(at)
		if p != nil {
			return nil, 0, p
		}
		value, p := d.stringIn(at, key)
		if p != nil {
			return nil, 0, p
		}
		if count++; count > maxMetadata {
			continue
		}
		i := 0
		for i < len(pairs) && pairs[i].Key < key {
			i++
		}
		if i < len(pairs) && pairs[i].Key == key {
			return nil, 0, malformedAt(at+"/"+escapePointer(key), "is there twice")
		}
		if pairs == nil {
			pairs = make([]message.Pair, 0, 4)
		}
		pairs = append(pairs, message.Pair{})
		copy(pairs[i+1:], pairs[i:])
		pairs[i] = message.Pair{Key: key, Value: value}
	}
	return pairs, count, d.close()
}

// open reads the start of an object or array.
func (d *decoder) open(kind jsontext.Kind, at, rule string) *Problem {
	switch d.json.PeekKind() {
	case kind:
		_, err := d.json.ReadToken()
		return d.syntax(err)
	case 0:
		_, err := d.json.ReadToken()
		return d.syntax(err)
	}
	if at == "#" {
		return malformed(rule)
	}
	return malformedAt(at, rule)
}

// close reads the end of an object or array, or reports what stands there
// instead.
func (d *decoder) close() *Problem {
	_, err := d.json.ReadToken()
	return d.syntax(err)
}

func (d *decoder) string(at string) (string, *Problem) {
	if kind := d.json.PeekKind(); kind != '"' && kind != 0 {
		return "", malformedAt(at, "must be a string")
	}
	value, err := d.json.ReadValue()
	if err != nil {
		return "", d.syntax(err)
	}
	if bytes.IndexByte(value, '\\') < 0 {
		end := int(d.json.InputOffset())
		return d.text[end-len(value)+1 : end-1], nil
	}
	if d.scratch, err = jsontext.AppendUnquote(d.scratch[:0], value); err != nil {
		return "", d.syntax(err)
	}
	// An unescaped NUL is no JSON; an escaped one is, and PostgreSQL's text
	// cannot hold it.
	if bytes.IndexByte(d.scratch, 0) >= 0 {
		return "", malformedAt(at, "must not hold the character U+0000")
	}
	return string(d.scratch), nil
}

// stringIn reads the string that belongs to key in the object at.
func (d *decoder) stringIn(at, key string) (string, *Problem) {
	value, p := d.string(at)
	if p != nil && len(p.Errors) > 0 {
		p.Errors[0].Pointer = at + "/" + escapePointer(key)
	}
	return value, p
}

func (d *decoder) integer(at string) (int64, *Problem) {
	if kind := d.json.PeekKind(); kind != '0' && kind != 0 {
		return 0, malformedAt(at, "must be an integer")
	}
	value, err := d.json.ReadValue()
	if err != nil {
		return 0, d.syntax(err)
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // what is out of range is so for its rule, too
		return 0, malformedAt(at, "must be an integer, written without fraction and exponent")
	}
	return n, nil
}
