package heartbeat

import (
	"bytes"
	"hash/maphash"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// Two heartbeats say the same exactly if they differ in nothing but what passes. A field that is added later is compared.
func TestWhatIsCompared(t *testing.T) {
	seed := maphash.MakeSeed()
	say := func(m *agentv1.Heartbeat) saying {
		raw, err := m.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		x, ok := scan(seed, raw)
		if !ok {
			t.Fatalf("%x cannot be read", raw)
		}
		return x
	}
	base := heartbeat(func(m *agentv1.Heartbeat) {
		m.Agent.SessionNumber, m.ClockSkew = 1, durationpb.New(-time.Minute)
	})
	want := map[protoreflect.Name]string{
		"sent_at": "", "vitals": "", "beacon_age": "", "spooled_events": "", "clock_skew": "skew", "capabilities": "sections", "inventory": "sections",
	}
	fields := base.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		other := proto.CloneOf(base)
		differ(other.ProtoReflect(), f)
		before, after := say(base), say(other)
		got := ""
		switch {
		case after.sections && before.digest == after.digest:
			got = "sections"
		case before.skew != after.skew && before.digest == after.digest:
			got = "skew"
		case before.digest != after.digest:
			got = "compared"
		}
		expected, named := want[f.Name()]
		if !named {
			expected = "compared"
		}
		if got != expected {
			t.Errorf("%s: %q, want %q", f.Name(), got, expected)
		}
	}
	if x := say(base); x.mark(Via{}) == x.mark(Via{Session: true}) || x.mark(Via{}) == 0 {
		t.Error("a heartbeat on a session and one over HTTPS have one mark")
	}
}

// differ changes one field of a message.
func differ(m protoreflect.Message, f protoreflect.FieldDescriptor) {
	switch {
	case f.IsList() && f.Message() != nil:
		m.Mutable(f).List().AppendMutable()
	case f.IsList():
		m.Mutable(f).List().Append(protoreflect.ValueOfString("another"))
	case f.Message() != nil:
		switch x := m.Mutable(f).Message().Interface().(type) {
		case *timestamppb.Timestamp:
			x.Seconds += 7
		case *durationpb.Duration:
			x.Seconds += 7
		default:
			differ(x.ProtoReflect(), x.ProtoReflect().Descriptor().Fields().Get(0))
		}
	case f.Kind() == protoreflect.StringKind:
		m.Set(f, protoreflect.ValueOfString("another"))
	case f.Kind() == protoreflect.BoolKind:
		m.Set(f, protoreflect.ValueOfBool(!m.Get(f).Bool()))
	case f.Kind() == protoreflect.DoubleKind:
		m.Set(f, protoreflect.ValueOfFloat64(7))
	case f.Kind() == protoreflect.Uint32Kind:
		m.Set(f, protoreflect.ValueOfUint32(7))
	case f.Kind() == protoreflect.EnumKind:
		m.Set(f, protoreflect.ValueOfEnum(1))
	default:
		m.Set(f, protoreflect.ValueOfUint64(m.Get(f).Uint()+7))
	}
}

// FuzzScan: what can be read and says the same as a heartbeat, is that heartbeat but for what passes.
func FuzzScan(f *testing.F) {
	seed := maphash.MakeSeed()
	base := heartbeat(func(m *agentv1.Heartbeat) { m.ClockSkew = durationpb.New(-1500 * time.Millisecond) })
	raw, err := base.MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	want, ok := scan(seed, raw)
	if !ok || want.skew != -1500*time.Millisecond {
		f.Fatalf("%+v, %t", want, ok)
	}
	f.Add(raw)
	f.Add(append(bytes.Clone(raw), raw...))
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		x, ok := scan(seed, b)
		if !ok || x.sections || x.digest != want.digest {
			return
		}
		m := &agentv1.Heartbeat{}
		if err := proto.Unmarshal(b, m); err != nil {
			// Only what passes may be broken: without it the message is whole.
			return
		}
		kept, plain := proto.CloneOf(m), proto.CloneOf(base)
		for _, m := range []*agentv1.Heartbeat{kept, plain} {
			m.SentAt, m.Vitals, m.BeaconAge, m.SpooledEvents, m.ClockSkew = nil, nil, nil, 0, nil
			m.ProtoReflect().SetUnknown(nil)
		}
		if !proto.Equal(kept, plain) {
			t.Errorf("%v says the same as %v", kept, plain)
		}
	})
}
