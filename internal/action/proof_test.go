package action

import (
	"crypto/ed25519"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

func spki(t testing.TB, key ed25519.PrivateKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDoubt: what a gateway writes in an agent's name is held against what the agent has signed.
func TestDoubt(t *testing.T) {
	ours := v1alpha1.EndpointIdentity{ID: machine, PublicKeys: [][]byte{spki(t, keyOf("devbox"))}}
	renewed := v1alpha1.EndpointIdentity{
		ID: machine, PublicKeys: [][]byte{spki(t, keyOf("new")), spki(t, keyOf("devbox"))},
		PreviousKeyExpirationTime: ptr.To(metav1.NewTime(noon.Add(time.Minute))),
	}
	expired := renewed
	expired.PreviousKeyExpirationTime = ptr.To(metav1.NewTime(noon.Add(time.Second)))
	sealed := func(m *agentv1.ActionResult) *v1alpha1.Envelope {
		e, err := sealBy(keyOf("devbox"))(envelope.Result, m)
		if err != nil {
			t.Fatal(err)
		}
		return &e
	}
	other := func(change func(*agentv1.ActionResult)) actionChange {
		return func(a *v1alpha1.EndpointAction) {
			m := says(a, time.Minute, done, "Done").Says
			change(m)
			a.Status.Result.Proof = sealed(m)
		}
	}
	for name, tt := range map[string]struct {
		identity *v1alpha1.EndpointIdentity
		action   actionChange
		want     string // in the doubt
	}{
		"good":                                 {identity: &ours},
		"by the key before":                    {identity: &renewed},
		"by a key that had expired":            {identity: &expired, want: "no signature"},
		"by somebody else":                     {identity: &v1alpha1.EndpointIdentity{ID: machine, PublicKeys: [][]byte{spki(t, keyOf("other"))}}, want: "no signature"},
		"by a key that is none":                {identity: &v1alpha1.EndpointIdentity{ID: machine, PublicKeys: [][]byte{{1}}}, want: "no signature"},
		"nobody knows, it enrolled again":      {identity: &v1alpha1.EndpointIdentity{ID: stranger, PublicKeys: [][]byte{spki(t, keyOf("other"))}}},
		"nobody knows, it was deleted":         {},
		"without a proof":                      {identity: &ours, action: func(a *v1alpha1.EndpointAction) { a.Status.Result.Proof = nil }, want: "no proof"},
		"of another fleet":                     {identity: &ours, action: other(func(m *agentv1.ActionResult) { m.FleetId = uid }), want: "something else"},
		"of another action":                    {identity: &ours, action: other(func(m *agentv1.ActionResult) { m.ActionUid = fleetID }), want: "something else"},
		"of another identity":                  {identity: &ours, action: other(func(m *agentv1.ActionResult) { m.IdentityId = stranger }), want: "something else"},
		"other words":                          {identity: &ours, action: func(a *v1alpha1.EndpointAction) { a.Status.Result.Message = "all is well" }, want: "than what is recorded"},
		"another outcome":                      {identity: &ours, action: func(a *v1alpha1.EndpointAction) { a.Status.Result.Outcome = "Failed" }, want: "than what is recorded"},
		"another signed outcome":               {identity: &ours, action: other(func(m *agentv1.ActionResult) { m.Outcome = failedTo }), want: "than what is recorded"},
		"another phase":                        {identity: &ours, action: func(a *v1alpha1.EndpointAction) { a.Status.Phase = v1alpha1.ActionFailed }, want: "the agent has signed Succeeded, and Failed is recorded"},
		"it had ended before":                  {identity: &ours, action: func(a *v1alpha1.EndpointAction) { a.Status.Phase = v1alpha1.ActionUnknown }},
		"a success that the agent did not see": {identity: &ours, action: func(a *v1alpha1.EndpointAction) { a.Status = *pretended(t, terminate) }, want: "the agent has signed Failed, and Succeeded is recorded"},
		"a success that was observed":          {identity: &ours, action: func(a *v1alpha1.EndpointAction) { a.Spec.Type, a.Status = isolate, *pretended(t, isolate) }},
	} {
		t.Run(name, func(t *testing.T) {
			a := sent(t, terminate)
			a = take(t, a, says(a, time.Minute, done, "Done"), "12")
			if tt.action != nil {
				tt.action(a)
			}
			doubt := Doubt(a, fleetID, tt.identity)
			if tt.want == "" {
				if doubt != nil {
					t.Error(doubt)
				}
				return
			}
			if doubt == nil || !strings.Contains(doubt.Error(), tt.want) {
				t.Fatalf("%v, want %q", doubt, tt.want)
			}
			status, row := Disbelieve(a, doubt, noon.Add(2*time.Minute))
			if row != "12a" || Verified(status) || !Verified(&a.Status) || status.Phase != a.Status.Phase {
				t.Errorf("row %q, %+v", row, status)
			}
			if !strings.HasPrefix(status.Message, "do not believe this result: ") {
				t.Errorf("people read %q", status.Message)
			}
			a.Status = *status
			if got := kstatus(t, a); got != "Failed" {
				t.Errorf("kstatus says %s", got)
			}
			if _, row := Disbelieve(a, doubt, noon.Add(3*time.Minute)); row != None {
				t.Errorf("row %q again", row)
			}
		})
	}
	if err := Doubt(sent(t, terminate), fleetID, &ours); err != nil {
		t.Errorf("without a result: %v", err)
	}
}

// pretended ended by what was observed, and then the agent reported that it had failed.
func pretended(t testing.TB, kind v1alpha1.ActionType) *v1alpha1.EndpointActionStatus {
	t.Helper()
	a := sent(t, kind)
	s := begin(a)
	s.end(noon.Add(time.Minute), v1alpha1.ActionSucceeded, ReasonObservedState, "")
	s.late(says(a, 2*time.Minute, failedTo, "NoFirewall"))
	return s.to
}
