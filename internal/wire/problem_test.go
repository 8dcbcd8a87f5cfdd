package wire

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// names are for ever: this list may grow, and nothing in it may change.
var names = map[Name]int{
	"certificate-required": 401, "certificate-unknown": 401, "certificate-not-yet-valid": 401, "certificate-expired": 401,
	"certificate-superseded": 401, "endpoint-suspended": 403, "endpoint-blocked": 403, "endpoint-decommissioned": 403, "endpoint-unknown": 410,
	"identity-conflict": 409, "session-replaced": 409, "token-unknown": 403, "token-expired": 403, "token-exhausted": 403, "proof-invalid": 403, "enrollment-denied": 403,
	"csr-invalid": 400, "malformed": 400, "tls-ems-required": 403, "protocol-version-unsupported": 410, "agent-version-unsupported": 403, "subprotocol-unsupported": 400, "not-found": 404,
	"method-not-allowed": 405, "message-timeout": 408, "length-required": 411, "media-type-unsupported": 415, "payload-too-large": 413,
	"throttled": 429, "artifact-not-offered": 404, "range-not-satisfiable": 416, "store-unavailable": 503, "internal": 500, "overloaded": 503, "draining": 503, "not-ready": 503,
}

func TestProblemNamesAreForEver(t *testing.T) {
	for name, status := range names {
		if got := (&Problem{Name: name}).Status(); problems[name].title == "" || got != status {
			t.Errorf("%s has status %d, want %d, and the title %q", name, got, status, problems[name].title)
		}
	}
	if len(problems) != len(names) {
		t.Errorf("%d problems, %d in the list of this test: add the new one", len(problems), len(names))
	}
}

func TestProblemReasons(t *testing.T) {
	for name := range names {
		if got, ok := NameOfReason(name.Reason()); !ok || got != name {
			t.Errorf("%s: the reason %s is read as %s, %v", name, name.Reason(), got, ok)
		}
	}
	for name, want := range map[Name]string{TokenUnknown: "TokenUnknown", CSRInvalid: "CsrInvalid", CertificateNotYetValid: "CertificateNotYetValid", Internal: "Internal"} {
		if got := name.Reason(); got != want {
			t.Errorf("%s has the reason %s, want %s", name, got, want)
		}
	}
	for _, reason := range []string{"", "Approved", "tokenUnknown"} {
		if name, ok := NameOfReason(reason); ok {
			t.Errorf("%q is read as %s", reason, name)
		}
	}
}

func TestProblemDocument(t *testing.T) {
	w := httptest.NewRecorder()
	(&Problem{
		Name: Throttled, Detail: "Wait.", Instance: "urn:uuid:" + someUUID, RetryAfter: 1500 * time.Millisecond, Minimum: "6.1.0", Supported: []string{"v1"},
	}).Write(w)
	want := `{"type":"https://rollcall.dev/problems/throttled","title":"Too many requests","status":429,"detail":"Wait.",` +
		`"instance":"urn:uuid:` + someUUID + `","retryAfter":2,"minimum":"6.1.0","supported":["v1"]}`
	if w.Code != http.StatusTooManyRequests || w.Body.String() != want {
		t.Errorf("%d %s\nwant %s", w.Code, w.Body, want)
	}
	if diff := cmp.Diff(http.Header{
		"Content-Type": {"application/problem+json"}, "Content-Length": {fmt.Sprint(len(want))}, "Retry-After": {"2"}, "Cache-Control": {"no-store"},
	}, w.Header()); diff != "" {
		t.Error(diff)
	}
}

func TestProblemComesBack(t *testing.T) {
	for name := range names {
		p := &Problem{Name: name, Detail: "Do this.", Instance: "i", RetryAfter: 5 * time.Second, Minimum: "1.0.0", Supported: []string{"a", "b"}}
		w := httptest.NewRecorder()
		p.Write(w)
		got, ok := ParseProblem(w.Code, w.Header().Get("Content-Type"), w.Body.Bytes())
		if diff := cmp.Diff(p, got, cmpopts.IgnoreUnexported(Problem{})); !ok || diff != "" {
			t.Errorf("%s: %v %s", name, ok, diff)
		}
	}
}

// What a gateway, or something between, may answer instead.
func TestParseProblem(t *testing.T) {
	const ours = `"type":"https://rollcall.dev/problems/throttled"`
	long := strings.Repeat("ä", 600)
	for _, tc := range []struct {
		name, contentType, body string
		want                    *Problem
	}{
		{"a proxy's page", "text/html", "<html>", nil},
		{"plain JSON", "application/json", "{" + ours + "}", nil},
		{"no JSON", "application/problem+json", "Bad Gateway", nil},
		{"somebody else's problem", "application/problem+json", `{"type":"https://example.com/throttled"}`, nil},
		{"a problem without a name", "application/problem+json", `{"type":"https://rollcall.dev/problems/"}`, nil},
		{"a name that is none", "application/problem+json", `{"type":"https://rollcall.dev/problems/../x"}`, nil},
		{"too large", "application/problem+json", "{" + ours + `,"detail":"` + strings.Repeat("a", MaxProblemBytes) + `"}`, nil},
		{"with a charset", "application/problem+json; charset=utf-8", "{" + ours + `,"more":1}`, &Problem{Name: Throttled}},
		{"of a later version", "application/problem+json", `{"type":"https://rollcall.dev/problems/later-one","status":418}`, &Problem{Name: "later-one"}},
		{
			"long and dirty", "application/problem+json", "{" + ours + `,"detail":"a\u001b[2J` + long + `","retryAfter":4000000000}`,
			&Problem{Name: Throttled, Detail: "a [2J" + strings.Repeat("ä", (1024-5)/2), RetryAfter: 24 * time.Hour},
		},
	} {
		got, ok := ParseProblem(http.StatusTeapot, tc.contentType, []byte(tc.body))
		if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreUnexported(Problem{})); ok != (tc.want != nil) || diff != "" {
			t.Errorf("%s: %v %s", tc.name, ok, diff)
		}
	}
	p, _ := ParseProblem(http.StatusTeapot, "application/problem+json", []byte(`{"type":"https://rollcall.dev/problems/later-one"}`))
	if p.Status() != http.StatusTeapot {
		t.Errorf("a name of a later version has status %d; want the one received", p.Status())
	}
}

func TestProblemSurvivesAnyDetail(t *testing.T) {
	w := httptest.NewRecorder()
	(&Problem{Name: Malformed, Detail: "what came was \xff\x00"}).Write(w)
	var m map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &m); w.Code != http.StatusBadRequest || err != nil || m["type"] != problemBase+"malformed" {
		t.Errorf("%d %q: %v", w.Code, w.Body, err)
	}
}
