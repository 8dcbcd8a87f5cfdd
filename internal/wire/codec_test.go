package wire

import (
	"net/http"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

func TestRequestCodec(t *testing.T) {
	const pb, js = "application/x-protobuf", "application/json"
	for _, tc := range []struct {
		contentType    string
		accept         []string
		request, reply Codec
		refused        string // the header that is at fault
	}{
		{contentType: pb, request: Protobuf, reply: Protobuf},
		{contentType: js, request: JSON, reply: JSON},
		{contentType: "application/json; charset=utf-8", request: JSON, reply: JSON},
		{contentType: "Application/JSON;charset=UTF-8", request: JSON, reply: JSON},
		{contentType: pb, accept: []string{js}, request: Protobuf, reply: JSON},
		{contentType: js, accept: []string{pb}, request: JSON, reply: Protobuf},
		{contentType: js, accept: []string{"*/*"}, request: JSON, reply: JSON},
		{contentType: pb, accept: []string{"application/*;q=0.5"}, request: Protobuf, reply: Protobuf},
		{contentType: pb, accept: []string{"text/html, application/json;q=0.9"}, request: Protobuf, reply: JSON},
		{contentType: pb, accept: []string{"text/html", js}, request: Protobuf, reply: JSON},
		{contentType: "", refused: "Content-Type"},
		{contentType: "text/plain", refused: "Content-Type"},
		{contentType: "application/json; charset=latin1", refused: "Content-Type"},
		{contentType: "application/", refused: "Content-Type"},
		{contentType: "application/x-www-form-urlencoded", refused: "Content-Type"},
		{contentType: pb, accept: []string{"text/html"}, refused: "Accept"},
	} {
		h := http.Header{}
		if tc.contentType != "" {
			h.Set("Content-Type", tc.contentType)
		}
		h["Accept"] = tc.accept
		request, reply, p := RequestCodec(h)
		if tc.refused != "" {
			if p == nil || p.Name != MediaTypeUnsupported || p.Detail != "The header "+tc.refused+" must name application/x-protobuf or application/json." || len(p.Supported) != 2 {
				t.Errorf("%q, accept %q: %+v", tc.contentType, tc.accept, p)
			}
			continue
		}
		if p != nil || request != tc.request || reply != tc.reply {
			t.Errorf("%q, accept %q: %v, %v, %v", tc.contentType, tc.accept, request, reply, p)
		}
	}
}

func TestReplyCodecPrefers(t *testing.T) {
	for _, preferred := range []Codec{Protobuf, JSON} {
		if got, p := ReplyCodec(http.Header{}, preferred); p != nil || got != preferred {
			t.Errorf("without Accept: %v, %v", got, p)
		}
	}
}

// Newer agents send fields, enum values and whole messages that this version does not know.
func TestUnknownIsIgnored(t *testing.T) {
	later := protowire.AppendTag(nil, 1999, protowire.BytesType)
	later = protowire.AppendString(later, "later")
	b, err := fullHeartbeat().MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	m := &agentv1.Heartbeat{}
	if err := Protobuf.Unmarshal(append(b, later...), m); err != nil || CheckHeartbeat(m) != nil {
		t.Errorf("an unknown field: %v, %v", err, CheckHeartbeat(m))
	}
	text := `{"agent":{"version":"9.0.0","platform":"plan9/mips","instanceId":"` + hexDigits(32) + `","epoch":"1","later":[{"a":1}]},
		"content":{"phase":"RELEASE_PHASE_LATER"},"later":{"x":null}}`
	m = &agentv1.Heartbeat{}
	if err := JSON.Unmarshal([]byte(text), m); err != nil || CheckHeartbeat(m) != nil || m.GetAgent().GetEpoch() != 1 {
		t.Errorf("an unknown field in JSON: %v, %v", err, CheckHeartbeat(m))
	}
}

func TestMarshalIsStable(t *testing.T) {
	for _, codec := range []Codec{Protobuf, JSON} {
		first, err := codec.Marshal(fullHeartbeat())
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			again, err := codec.Marshal(proto.CloneOf(fullHeartbeat()))
			if err != nil || string(again) != string(first) {
				t.Fatalf("%s: an equal message gave %q and %q (%v)", codec.ContentType(), first, again, err)
			}
		}
	}
}

// steadyHeartbeat is what an agent sends nearly always: nothing changed, nothing open.
func steadyHeartbeat() *agentv1.Heartbeat {
	h := fullHeartbeat()
	h.Capabilities, h.Inventory, h.OpenActions, h.State, h.SessionError, h.LastRejection = nil, nil, nil, nil, "", ""
	return h
}

func BenchmarkHeartbeat(b *testing.B) {
	for _, codec := range []Codec{Protobuf, JSON} {
		body, err := codec.Marshal(steadyHeartbeat())
		if err != nil {
			b.Fatal(err)
		}
		b.Run(codec.ContentType(), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				m := &agentv1.Heartbeat{}
				if err := codec.Unmarshal(body, m); err != nil || CheckHeartbeat(m) != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
