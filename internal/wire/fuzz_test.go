package wire

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

func FuzzHeartbeat(f *testing.F)      { fuzzMessage(f, "Heartbeat") }
func FuzzEnrollRequest(f *testing.F)  { fuzzMessage(f, "EnrollRequest") }
func FuzzRenewRequest(f *testing.F)   { fuzzMessage(f, "RenewRequest") }
func FuzzTrustReply(f *testing.F)     { fuzzMessage(f, "TrustReply") }
func FuzzHeartbeatReply(f *testing.F) { fuzzMessage(f, "HeartbeatReply") }
func FuzzActionUpdates(f *testing.F)  { fuzzMessage(f, "ActionUpdates") }
func FuzzAcks(f *testing.F)           { fuzzMessage(f, "Acks") }
func FuzzCertificate(f *testing.F)    { fuzzMessage(f, "CertificateReply") }

func FuzzAgentMessage(f *testing.F) { fuzzMessage(f, "AgentMessage", "AgentMessage of an update") }

func FuzzServerMessage(f *testing.F) {
	fuzzMessage(f, "ServerMessage", "ServerMessage of orders", "ServerMessage of a problem", "ServerMessage of an ack")
}

// The payloads of envelopes are JSON only, but what holds for both encodings holds for one.

func FuzzEnrollmentPayload(f *testing.F) { fuzzMessage(f, "Enrollment") }
func FuzzRenewalPayload(f *testing.F)    { fuzzMessage(f, "Renewal") }
func FuzzTrustPayload(f *testing.F)      { fuzzMessage(f, "TrustBundle") }
func FuzzBeaconPayload(f *testing.F)     { fuzzMessage(f, "Beacon") }
func FuzzAssignmentPayload(f *testing.F) { fuzzMessage(f, "Assignment") }
func FuzzOfferPayload(f *testing.F)      { fuzzMessage(f, "Offer") }
func FuzzPolicyPayload(f *testing.F)     { fuzzMessage(f, "Policy") }
func FuzzCancelPayload(f *testing.F)     { fuzzMessage(f, "Cancel") }
func FuzzResultPayload(f *testing.F)     { fuzzMessage(f, "ActionResult") }
func FuzzActionPayload(f *testing.F) {
	names := []string{"Action"}
	for field := range parameterBounds {
		names = append(names, "Action with "+field)
	}
	fuzzMessage(f, names...)
}

// fuzzMessage checks for one kind of message, in both encodings, that whatever is accepted is within bounds and survives being encoded
// again.
func fuzzMessage(f *testing.F, names ...string) {
	for _, k := range kinds {
		if !slices.Contains(names, k.name) {
			continue
		}
		for _, codec := range []Codec{Protobuf, JSON} {
			b, err := codec.Marshal(k.full())
			if err != nil {
				f.Fatal(err)
			}
			f.Add(codec == JSON, b)
			f.Add(codec == JSON, b[:len(b)/2])
			f.Add(codec == JSON, []byte{})
		}
	}
	k := kinds[slices.IndexFunc(kinds, func(k checked) bool { return k.name == names[0] })]
	f.Add(true, []byte(`{"later":[{},null,"x"],"agent":null}`))
	f.Fuzz(func(t *testing.T, isJSON bool, body []byte) {
		codec := Protobuf
		if isJSON {
			codec = JSON
		}
		m := k.full()
		proto.Reset(m)
		if codec.Unmarshal(body, m) != nil || k.check(m) != nil {
			return
		}
		withinBounds(t, m.ProtoReflect())
		for _, again := range []Codec{Protobuf, JSON} {
			reencodes(t, k, again, m)
		}
	})
}

func reencodes(t *testing.T, k checked, codec Codec, m Message) {
	first, err := codec.Marshal(m)
	if err != nil {
		t.Fatalf("what was accepted does not encode in %s: %v", codec.ContentType(), err)
	}
	back := k.full()
	proto.Reset(back)
	if err := codec.Unmarshal(first, back); err != nil {
		t.Fatalf("what was encoded does not decode in %s: %v", codec.ContentType(), err)
	}
	if err := k.check(back); err != nil {
		t.Fatalf("what was accepted is refused after %s: %v", codec.ContentType(), err)
	}
	second, err := codec.Marshal(back)
	if err != nil || !bytes.Equal(first, second) {
		t.Fatalf("encoded as %q, then as %q: %v", first, second, err)
	}
}

// longest are the fields with text of more than 256 bytes.
var longest = map[protoreflect.FullName]int{
	"rollcall.agent.v1.Artifact.signature":          1 << 10,
	"rollcall.agent.v1.Problem.detail":              1 << 10,
	"rollcall.agent.v1.ActionResult.message":        1 << 10,
	"rollcall.agent.v1.EndpointState.proxy_url":     261,
	"rollcall.agent.v1.SetEndpointProxy.url":        261,
	"rollcall.agent.v1.QuarantineFile.path":         4096,
	"rollcall.agent.v1.RestoreFile.path":            4096,
	"rollcall.agent.v1.TerminateProcess.executable": 4096,
	"rollcall.agent.v1.LiveTerminal.command":        4096,
	"rollcall.agent.v1.RetrieveFiles.paths":         4096,
}

// withinBounds holds for every message whatever its own bounds: they are coarser than any of them, and found in another way.
func withinBounds(t *testing.T, m protoreflect.Message) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		values := []protoreflect.Value{v}
		if fd.IsList() {
			values = nil
			for i := range v.List().Len() {
				values = append(values, v.List().Get(i))
			}
			if len(values) > 64 && (len(values) > 128 || fd.FullName() != "rollcall.agent.v1.ActionResult.processes") {
				t.Fatalf("%s has %d elements", fd.FullName(), len(values))
			}
		}
		for _, v := range values {
			switch fd.Kind() {
			case protoreflect.StringKind:
				verbatim := fd.FullName() == "rollcall.agent.v1.LiveTerminal.command" || fd.FullName() == "rollcall.agent.v1.Artifact.signature"
				if s := v.String(); len(s) > max(256, longest[fd.FullName()]) || !plain(s) && !verbatim {
					t.Fatalf("%s is %q", fd.FullName(), s)
				}
			case protoreflect.BytesKind:
				if len(v.Bytes()) > 32<<10 {
					t.Fatalf("%s has %d bytes", fd.FullName(), len(v.Bytes()))
				}
			case protoreflect.MessageKind:
				withinBounds(t, v.Message())
			default:
			}
		}
		return true
	})
}

func plain(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) {
			return false
		}
	}
	return utf8.ValidString(s)
}

func FuzzProblem(f *testing.F) {
	const contentType = "application/problem+json"
	for name := range problems {
		w := httptest.NewRecorder()
		(&Problem{Name: name, Detail: "Do this.", RetryAfter: 5e9, Supported: []string{"a"}}).Write(w)
		f.Add(w.Code, contentType, w.Body.Bytes())
	}
	f.Add(502, "text/html", []byte("<html>"))
	f.Add(503, contentType, []byte(`{"type":"https://rollcall.dev/problems/later","retryAfter":"7"}`))
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		p, ok := ParseProblem(status, contentType, body)
		if !ok {
			return
		}
		if !isProblemName(string(p.Name)) || !plain(p.Error()) || len(p.Detail) > 1<<10 || len(p.Supported) > 16 || p.RetryAfter < 0 || p.RetryAfter.Hours() > 24 {
			t.Fatalf("%+v", p)
		}
		w := httptest.NewRecorder()
		w.Body = &bytes.Buffer{}
		if p.Status() < 100 || p.Status() > 999 { // what net/http never hands out
			return
		}
		p.Write(w)
		again, ok := ParseProblem(w.Code, w.Header().Get("Content-Type"), w.Body.Bytes())
		if !ok || again.Name != p.Name || again.Detail != p.Detail || again.RetryAfter != p.RetryAfter {
			t.Fatalf("%+v came back as %+v", p, again)
		}
	})
}

func FuzzRequest(f *testing.F) {
	f.Add("8.0.0", "application/json; charset=utf-8", "*/*", "", "", []byte("{}"), int64(2))
	f.Add("1.0.0-a.1+b", "application/x-protobuf", "text/html, application/json;q=0.1", "gzip", "100-continue", []byte{}, int64(0))
	f.Add("v8", ";", ",;,", "", "x", []byte("abc"), int64(-1))
	f.Fuzz(func(t *testing.T, version, contentType, accept, encoding, expect string, body []byte, length int64) {
		r := httptest.NewRequest(http.MethodPost, PathHeartbeat, bytes.NewReader(body))
		r.ContentLength = length
		r.Header = http.Header{
			HeaderAgentVersion: {version}, "Content-Type": {contentType}, "Accept": {accept}, "Content-Encoding": {encoding}, "Expect": {expect},
		}
		if CheckRequest(r) == nil && (len(version) > MaxVersion || !plain(version) || encoding != "" || expect != "" && expect != "100-continue") {
			t.Fatalf("accepted: %q", r.Header)
		}
		const limit = 4096
		m := &agentv1.Heartbeat{}
		_, p := Decode(r, limit, m, CheckHeartbeat)
		if p == nil && (length <= 0 || length > limit || int64(len(body)) < length || CheckHeartbeat(m) != nil) {
			t.Fatalf("accepted %d bytes of %q", length, body)
		}
		if p != nil && (problems[p.Name].title == "" || !plain(p.Error())) {
			t.Fatalf("refused with %+v", p)
		}
	})
}

func FuzzCutText(f *testing.F) {
	f.Add("plain", 3)
	f.Add("ä\x00\xffö\u0085", 4)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		if limit < 0 || limit > 1<<10 {
			return
		}
		got := CutText(s, limit)
		if len(got) > limit || !plain(got) || CutText(got, limit) != got {
			t.Fatalf("%q", got)
		}
		if plain(s) && len(s) <= limit && got != s {
			t.Fatalf("%q became %q for no reason", s, got)
		}
	})
}

func FuzzParseClose(f *testing.F) {
	for name := range problems {
		code, reason := (&Problem{Name: name, RetryAfter: 1500 * time.Millisecond}).Close()
		f.Add(uint16(code), reason)
	}
	f.Add(uint16(0), "throttled; retry=-1")
	f.Add(uint16(4999), "\xff\x00; retry=99999999999999999999")
	f.Fuzz(func(t *testing.T, code uint16, reason string) {
		p := ParseClose(CloseCode(code), reason)
		if problems[p.Name].title == "" || p.RetryAfter < 0 || p.RetryAfter > 24*time.Hour || len(p.Detail) > MaxCloseReason || !plain(p.Error()) {
			t.Fatalf("%d %q is read as %+v", code, reason, p)
		}
		again, text := p.Close()
		if back := ParseClose(again, text); len(text) > MaxCloseReason || back.Name != p.Name || back.RetryAfter != p.RetryAfter {
			t.Fatalf("%+v is written as %d %q and read as %+v", p, again, text, back)
		}
	})
}
