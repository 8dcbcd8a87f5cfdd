package heartbeat

import (
	"hash/maphash"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// saying is what a heartbeat says, to see whether another says the same.
type saying struct {
	digest   uint64
	skew     time.Duration
	sections bool // it has capabilities or an inventory
}

// mark is never 0, and another for each way.
func (x saying) mark(via Via) uint64 {
	if via.Session {
		return x.digest | 1
	}
	return x.digest&^1 | 2
}

// role of a field where two heartbeats are compared.
type role uint8

const (
	said    role = iota // the same, or something is new
	passing             // changes each time, and is not written
	skew                // compared after rounding
	section             // never the same
)

// roles of the fields of a Heartbeat by number. What is not named here is compared, so that a new field is, too.
var roles = func() (all [64]role) {
	fields := (&agentv1.Heartbeat{}).ProtoReflect().Descriptor().Fields()
	for name, r := range map[protoreflect.Name]role{
		"sent_at": passing, "vitals": passing, "beacon_age": passing, "spooled_events": passing,
		"capabilities": section, "inventory": section, "clock_skew": skew,
	} {
		all[fields.ByName(name).Number()] = r
	}
	return all
}()

// read is what a heartbeat says; raw is its encoding, if it came so.
func (s *Service) read(m *agentv1.Heartbeat, raw []byte) (saying, bool) {
	if raw != nil {
		return scan(s.seed, raw)
	}
	var usual [1 << 10]byte
	b := usual[:]
	if n := m.SizeVT(); n <= len(b) {
		b = b[:n]
	} else {
		b = make([]byte, n)
	}
	_, _ = m.MarshalToSizedBufferVT(b) // cannot fail: there are no required fields
	return scan(s.seed, b)
}

// scan reads an encoded heartbeat, field by field, and decodes next to nothing. Nothing is checked: what says the same as a heartbeat that was
// is one, but for the fields that pass.
func scan(seed maphash.Seed, raw []byte) (x saying, ok bool) {
	var h maphash.Hash
	h.SetSeed(seed)
	for len(raw) > 0 {
		number, kind, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return x, false
		}
		size := protowire.ConsumeFieldValue(number, kind, raw[n:])
		if size < 0 {
			return x, false
		}
		field := raw[:n+size]
		raw = raw[n+size:]
		switch roleOf(number) {
		case passing:
		case section:
			x.sections = true
		case skew:
			if x.skew, ok = duration(kind, field[n:]); !ok {
				return x, false
			}
		default:
			_, _ = h.Write(field) // never fails
		}
	}
	x.digest = h.Sum64()
	return x, true
}

func roleOf(number protowire.Number) role {
	if int(number) < len(roles) {
		return roles[number]
	}
	return said
}

// duration reads a field of type google.protobuf.Duration.
func duration(kind protowire.Type, value []byte) (time.Duration, bool) {
	body, n := protowire.ConsumeBytes(value)
	if kind != protowire.BytesType || n < 0 {
		return 0, false
	}
	var d durationpb.Duration
	for len(body) > 0 {
		number, kind, n := protowire.ConsumeTag(body)
		if n < 0 || kind != protowire.VarintType {
			return 0, false
		}
		v, size := protowire.ConsumeVarint(body[n:])
		if size < 0 {
			return 0, false
		}
		switch number {
		case 1:
			d.Seconds = int64(v) //nolint:gosec // as it is encoded
		case 2:
			d.Nanos = int32(v) //nolint:gosec // as it is encoded
		}
		body = body[n+size:]
	}
	return d.AsDuration(), true
}
