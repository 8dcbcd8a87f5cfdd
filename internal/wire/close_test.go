package wire

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// What an agent does next hangs on the code, and on the name where one code has several.
func TestCloseOfAProblem(t *testing.T) {
	for _, tc := range []struct {
		problem Problem
		code    CloseCode
		reason  string
	}{
		{Problem{Name: CertificateExpired}, 4401, "certificate-expired"},
		{Problem{Name: CertificateSuperseded}, 4401, "certificate-superseded"},
		{Problem{Name: EndpointSuspended}, 4403, "endpoint-suspended"},
		{Problem{Name: EndpointDecommissioned}, 4403, "endpoint-decommissioned"},
		{Problem{Name: MessageTimeout}, 4408, "message-timeout"},
		{Problem{Name: SessionReplaced}, 4409, "session-replaced"},
		{Problem{Name: IdentityConflict, RetryAfter: 5 * time.Minute}, 4409, "identity-conflict; retry=300"},
		{Problem{Name: EndpointUnknown}, 4410, "endpoint-unknown"},
		{Problem{Name: AgentVersionUnsupported, Minimum: "6.1"}, 4426, "agent-version-unsupported"},
		{Problem{Name: Malformed, Detail: "x"}, 1007, "malformed"},
		{Problem{Name: Throttled, RetryAfter: 100 * time.Millisecond}, 1008, "throttled; retry=1"},
		{Problem{Name: PayloadTooLarge}, 1009, "payload-too-large"},
		{Problem{Name: Internal}, 1011, "internal"},
		{Problem{Name: Draining, RetryAfter: 7 * time.Second}, 1012, "draining; retry=7"},
		{Problem{Name: Overloaded, RetryAfter: 48 * time.Hour}, 1013, "overloaded; retry=86400"},
		{Problem{Name: ProofInvalid}, 1008, "proof-invalid"},
		{Problem{Name: "later-one", status: 403}, 1008, "later-one"},
		{Problem{Name: "later-one", status: 503}, 1011, "later-one"},
		{Problem{Name: Name(strings.Repeat("a", 200))}, 1011, "internal"},
	} {
		if code, reason := tc.problem.Close(); code != tc.code || reason != tc.reason {
			t.Errorf("%s closes with %d %q, want %d %q", tc.problem.Name, code, reason, tc.code, tc.reason)
		}
	}
}

func TestParseClose(t *testing.T) {
	long := strings.Repeat("ä", 100)
	for _, tc := range []struct {
		code   CloseCode
		reason string
		want   Problem
	}{
		{4409, "identity-conflict; retry=300", Problem{Name: IdentityConflict, RetryAfter: 5 * time.Minute}},
		{4409, "", Problem{Name: SessionReplaced}},
		{4403, "endpoint-on-holiday; retry=5", Problem{Name: EndpointSuspended, Detail: "endpoint-on-holiday; retry=5", RetryAfter: 5 * time.Second}},
		{1012, "draining; retry=99999", Problem{Name: Draining, RetryAfter: 24 * time.Hour}},
		{1012, "draining; retry=-1", Problem{Name: Draining}},
		{1012, "draining; retry=", Problem{Name: Draining}},
		{1012, "draining; retry=99999999999999999999", Problem{Name: Draining}},
		{1001, "proxy shutdown", Problem{Name: Draining, Detail: "proxy shutdown"}},
		{1002, "", Problem{Name: Malformed}},
		{1003, "", Problem{Name: MediaTypeUnsupported}},
		{1007, "", Problem{Name: Malformed}},
		{1008, "", Problem{Name: Throttled}},
		{1009, "", Problem{Name: PayloadTooLarge}},
		{1011, "", Problem{Name: Internal}},
		{1013, "", Problem{Name: Overloaded}},
		{4401, "", Problem{Name: CertificateExpired}},
		{4403, "", Problem{Name: EndpointSuspended}},
		{4408, "", Problem{Name: MessageTimeout}},
		{4410, "", Problem{Name: EndpointUnknown}},
		{4426, "", Problem{Name: AgentVersionUnsupported}},
		{CloseNoStatus, "", Problem{Name: Internal}},
		{CloseAbnormal, "", Problem{Name: Internal}},
		{4999, "\x1b[2J" + long, Problem{Name: Internal, Detail: " [2J" + strings.Repeat("ä", (MaxCloseReason-4)/2)}},
	} {
		got := ParseClose(tc.code, tc.reason)
		if diff := cmp.Diff(&tc.want, got, cmpopts.IgnoreUnexported(Problem{})); diff != "" {
			t.Errorf("%d %q: %s", tc.code, tc.reason, diff)
		}
	}
}

// What a gateway says when it ends a session, the agent understands; and every reason fits into a close frame.
func TestCloseComesBack(t *testing.T) {
	for name := range problems {
		p := &Problem{Name: name, RetryAfter: 24 * time.Hour}
		code, reason := p.Close()
		if len(reason) > MaxCloseReason {
			t.Errorf("%s: the reason has %d bytes", name, len(reason))
		}
		if back := ParseClose(code, reason); back.Name != name || back.RetryAfter != p.RetryAfter {
			t.Errorf("%d %q is read as %+v", code, reason, back)
		}
		if closes := closeCodes[name]; closes != 0 && codeNames[closes] == "" && closes != CloseInternal {
			t.Errorf("%d, of %s, stands for nothing without a reason", closes, name)
		}
	}
}
