package enrollment

import (
	"bytes"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func TestNamesAreDNSLabels(t *testing.T) {
	hash := strings.Repeat("0123456789abcdef", 4)
	rapid.Check(t, func(t *rapid.T) {
		all := names(rapid.String().Draw(t, "hostname"), hash)
		seen := map[string]bool{}
		for _, name := range all {
			if wrong := validation.IsDNS1123Label(name); len(wrong) > 0 || seen[name] {
				t.Fatalf("%q of %q: %v", name, all, wrong)
			}
			seen[name] = true
		}
	})
	for hostname, want := range map[string]string{
		"web1": "web1", "Web1.Example.com": "web1", "JOHN'S-MacBook": "john-s-macbook", "": "endpoint", "日本": "endpoint", "-.-": "endpoint",
		strings.Repeat("a", 70): strings.Repeat("a", 63),
	} {
		if got := names(hostname, hash); got[0] != want || len(got) != 3 || !strings.HasSuffix(got[1], "-01234") || !strings.HasSuffix(got[2], "-0123456789") {
			t.Errorf("%q: %q, want %q first", hostname, got, want)
		}
	}
}

func TestAdmit(t *testing.T) {
	for _, tc := range []struct {
		name   string
		spec   v1alpha1.EnrollmentTokenSpec
		status v1alpha1.EnrollmentTokenStatus
		age    time.Duration
		reason Reason
	}{
		{name: "unlimited", age: 10000 * time.Hour, status: v1alpha1.EnrollmentTokenStatus{Uses: ptr.To[int32](1000)}},
		{name: "just not expired", spec: v1alpha1.EnrollmentTokenSpec{ExpiresAfterHours: 1}, age: time.Hour - 1},
		{name: "just expired", spec: v1alpha1.EnrollmentTokenSpec{ExpiresAfterHours: 1}, age: time.Hour, reason: TokenExpired},
		{name: "one use left", spec: v1alpha1.EnrollmentTokenSpec{MaxUses: ptr.To[int32](2)}, status: v1alpha1.EnrollmentTokenStatus{Uses: ptr.To[int32](1)}},
		{name: "no use left", spec: v1alpha1.EnrollmentTokenSpec{MaxUses: ptr.To[int32](2)}, status: v1alpha1.EnrollmentTokenStatus{Uses: ptr.To[int32](2)}, reason: TokenExhausted},
		{name: "labels that are none", spec: v1alpha1.EnrollmentTokenSpec{Labels: map[string]v1alpha1.LabelValue{"a b": "c"}}, reason: EnrollmentDenied},
	} {
		t.Run(tc.name, func(t *testing.T) {
			token := &v1alpha1.EnrollmentToken{
				ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "laptops", CreationTimestamp: metav1.NewTime(noon.Add(-tc.age))}, Spec: tc.spec, Status: tc.status,
			}
			wantReason(t, admit(token, time.Hour, noon), tc.reason)
		})
	}
	full := &v1alpha1.EnrollmentToken{Status: v1alpha1.EnrollmentTokenStatus{Claims: make([]v1alpha1.EnrollmentClaim, maxClaims)}}
	var wait *pause
	if err := admit(full, time.Hour, noon); !errors.As(err, &wait) || wait.after == 0 {
		t.Errorf("with %d claims under way: %v, want a pause", maxClaims, err)
	}
}

func wantReason(t *testing.T, err error, want Reason) {
	t.Helper()
	var denial *Denial
	if errors.As(err, &denial) {
		if denial.Reason != want || denial.Detail == "" {
			t.Errorf("denied with %v, want the reason %q", denial, want)
		}
		return
	}
	if err != nil || want != "" {
		t.Errorf("got %v, want the reason %q", err, want)
	}
}

func TestTake(t *testing.T) {
	mine, other := []byte("mine"), []byte("other")
	id := func(key []byte, machine string) *v1alpha1.EndpointIdentity {
		return &v1alpha1.EndpointIdentity{ID: "id", PublicKeys: [][]byte{key}, MachineID: v1alpha1.Text(machine)}
	}
	ep := func(change func(*v1alpha1.Endpoint)) *v1alpha1.Endpoint {
		e := &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "box", Annotations: map[string]string{}}}
		change(e)
		return e
	}
	online := metav1.Condition{Type: v1alpha1.EndpointOnline, Status: metav1.ConditionTrue}
	named := v1alpha1.EnrollmentTokenSpec{EndpointName: "box"}
	replace := v1alpha1.EnrollmentTokenSpec{Replace: "SameMachineOffline"}
	for _, tc := range []struct {
		name   string
		ep     *v1alpha1.Endpoint
		token  v1alpha1.EnrollmentTokenSpec
		claim  string
		want   taking
		denied bool
	}{
		{name: "nobody's", want: free},
		{name: "declared by a person", ep: ep(func(*v1alpha1.Endpoint) {}), want: taken},
		{name: "declared, and named by the token", ep: ep(func(*v1alpha1.Endpoint) {}), token: named, want: mayBind},
		{name: "made by this claim", claim: "c1", want: mayBind, ep: ep(func(e *v1alpha1.Endpoint) { e.Annotations[v1alpha1.AnnotationEnrolling] = "c1" })},
		{name: "made by another claim", claim: "c1", want: taken, ep: ep(func(e *v1alpha1.Endpoint) { e.Annotations[v1alpha1.AnnotationEnrolling] = "c2" })},
		{name: "made by this claim and bound to another since", claim: "c1", want: taken, ep: ep(func(e *v1alpha1.Endpoint) {
			e.Annotations[v1alpha1.AnnotationEnrolling], e.Status.Identity = "c1", id(other, "")
		})},
		{name: "has my key", ep: ep(func(e *v1alpha1.Endpoint) { e.Status.Identity = id(mine, "") }), want: own},
		{name: "has my key, blocked", denied: true, ep: ep(func(e *v1alpha1.Endpoint) {
			e.Status.Identity, e.Spec.Lifecycle = id(mine, ""), v1alpha1.LifecycleBlocked
		})},
		{name: "somebody else's", ep: ep(func(e *v1alpha1.Endpoint) { e.Status.Identity = id(other, "m") }), want: taken},
		{name: "somebody else's, named by the token", token: named, want: mayBind, ep: ep(func(e *v1alpha1.Endpoint) { e.Status.Identity = id(other, "") })},
		{name: "decommissioned, named by the token", token: named, denied: true, ep: ep(func(e *v1alpha1.Endpoint) {
			e.Status.Identity, e.Spec.Lifecycle = id(other, ""), v1alpha1.LifecycleDecommissioned
		})},
		{name: "suspended, named by the token", token: named, want: mayBind, ep: ep(func(e *v1alpha1.Endpoint) {
			e.Status.Identity, e.Spec.Lifecycle = id(other, ""), v1alpha1.LifecycleSuspended
		})},
		{name: "the same machine, offline", token: replace, want: mayBind, ep: ep(func(e *v1alpha1.Endpoint) { e.Status.Identity = id(other, "m") })},
		{name: "the same machine, online", token: replace, want: taken, ep: ep(func(e *v1alpha1.Endpoint) {
			e.Status.Identity, e.Status.Conditions = id(other, "m"), []metav1.Condition{online}
		})},
		{name: "the same machine, but the token does not say so", want: taken, ep: ep(func(e *v1alpha1.Endpoint) { e.Status.Identity = id(other, "m") })},
		{name: "another machine, offline", token: replace, want: taken, ep: ep(func(e *v1alpha1.Endpoint) { e.Status.Identity = id(other, "n") })},
		{name: "a machine without an ID", token: replace, want: taken, ep: ep(func(e *v1alpha1.Endpoint) { e.Status.Identity = id(other, "") })},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := take(tc.ep, &v1alpha1.EnrollmentToken{Spec: tc.token}, applicant{spki: mine, machineID: "m", identityID: tc.claim})
			if got != tc.want || (err != nil) != tc.denied {
				t.Errorf("got %d, %v; want %d", got, err, tc.want)
			}
		})
	}
}

func TestRenew(t *testing.T) {
	k := func(b byte) []byte { return []byte{b} }
	const grace, day = 30 * 24 * time.Hour, 24 * time.Hour
	in := func(d time.Duration) *metav1.Time { return ptr.To(metav1.NewTime(noon.Add(d))) }
	o := &Options{RenewalGrace: grace, PreviousKeyLifetime: day}
	for _, tc := range []struct {
		name      string
		lifecycle v1alpha1.EndpointLifecycle
		keys      [][]byte
		until     *metav1.Time
		old, next []byte
		age       time.Duration // since the certificate's end
		want      [][]byte
		wantUntil *metav1.Time
		reason    Reason
	}{
		{name: "the first renewal", keys: [][]byte{k(0)}, old: k(0), next: k(1), want: [][]byte{k(1), k(0)}, wantUntil: in(day)},
		{name: "the next", keys: [][]byte{k(1), k(0)}, until: in(-day), old: k(1), next: k(2), want: [][]byte{k(2), k(1)}, wantUntil: in(day)},
		{name: "the reply was lost", keys: [][]byte{k(1), k(0)}, until: in(time.Hour), old: k(0), next: k(1), want: [][]byte{k(1), k(0)}, wantUntil: in(time.Hour)},
		{name: "the reply was lost long ago", keys: [][]byte{k(1), k(0)}, until: in(-time.Hour), old: k(0), next: k(1), want: [][]byte{k(1), k(0)}, wantUntil: in(-time.Hour)},
		{name: "the new key was lost too", keys: [][]byte{k(1), k(0)}, until: in(time.Hour), old: k(0), next: k(2), want: [][]byte{k(2), k(0)}, wantUntil: in(time.Hour)},
		{name: "the new key was lost, a day ago", keys: [][]byte{k(1), k(0)}, until: in(0), old: k(0), next: k(2), reason: CertificateSuperseded},
		{name: "a key from before", keys: [][]byte{k(2), k(1)}, until: in(time.Hour), old: k(0), next: k(3), reason: CertificateSuperseded},
		{name: "a key from before asks for the newest", keys: [][]byte{k(2), k(1)}, until: in(time.Hour), old: k(0), next: k(2), reason: CertificateSuperseded},
		{name: "expired", age: grace, keys: [][]byte{k(0)}, old: k(0), next: k(1), want: [][]byte{k(1), k(0)}, wantUntil: in(day)},
		{name: "expired too long", age: grace + 1, keys: [][]byte{k(0)}, old: k(0), next: k(1), reason: CertificateExpired},
		{name: "suspended", lifecycle: v1alpha1.LifecycleSuspended, keys: [][]byte{k(0)}, old: k(0), next: k(1), reason: EndpointSuspended},
		{name: "blocked", lifecycle: v1alpha1.LifecycleBlocked, keys: [][]byte{k(0)}, old: k(0), next: k(1), reason: EndpointBlocked},
		{name: "decommissioned", lifecycle: v1alpha1.LifecycleDecommissioned, keys: [][]byte{k(0)}, old: k(0), next: k(1), reason: EndpointDecommissioned},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ep := &v1alpha1.Endpoint{Spec: v1alpha1.EndpointSpec{Lifecycle: tc.lifecycle}}
			ep.Status.Identity = &v1alpha1.EndpointIdentity{PublicKeys: tc.keys, PreviousKeyExpirationTime: tc.until}
			cert := &x509.Certificate{NotAfter: noon.Add(-tc.age), RawSubjectPublicKeyInfo: tc.old}
			got, err := o.renew(ep, cert, tc.next, noon)
			wantReason(t, err, tc.reason)
			if diff := cmp.Diff(renewed{tc.want, tc.wantUntil}, got, cmp.AllowUnexported(renewed{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestRenewalsNeverLockTheMachineOut: whatever replies get lost, a machine that keeps its newest two keys can always renew within grace, and
// a clone that stands still is found out once the machine has renewed twice.
func TestRenewalsNeverLockTheMachineOut(t *testing.T) {
	o := &Options{RenewalGrace: 30 * 24 * time.Hour, PreviousKeyLifetime: 24 * time.Hour}
	rapid.Check(t, func(t *rapid.T) {
		ep := &v1alpha1.Endpoint{}
		ep.Status.Identity = &v1alpha1.EndpointIdentity{PublicKeys: [][]byte{{0}}}
		now, held, next, renewals := noon, []byte{0}, byte(1), 0
		for range rapid.IntRange(1, 20).Draw(t, "tries") {
			now = now.Add(time.Duration(rapid.IntRange(0, 72).Draw(t, "hours")) * time.Hour)
			asked := []byte{next} // persisted first, so that a lost reply is asked for again with the same key
			got, err := o.renew(ep, &x509.Certificate{NotAfter: now, RawSubjectPublicKeyInfo: held}, asked, now)
			if err != nil {
				t.Fatalf("with key %d asking for %d: %v", held, asked, err)
			}
			ep.Status.Identity.PublicKeys, ep.Status.Identity.PreviousKeyExpirationTime = got.publicKeys, got.previousUntil
			if rapid.Bool().Draw(t, "the reply arrives") {
				held, next, renewals = asked, next+1, renewals+1
			}
			if !bytes.Equal(ep.Status.Identity.PublicKeys[0], asked) {
				t.Fatal("the newest key is not the one that was asked for")
			}
		}
		if renewals >= 2 {
			_, err := o.renew(ep, &x509.Certificate{NotAfter: now, RawSubjectPublicKeyInfo: []byte{0}}, []byte{99}, now)
			var denial *Denial
			if !errors.As(err, &denial) || denial.Reason != CertificateSuperseded {
				t.Fatalf("the first key still renews after %d renewals: %v", renewals, err)
			}
		}
	})
}

func TestConditionsOfAToken(t *testing.T) {
	hour := v1alpha1.EnrollmentTokenSpec{ExpiresAfterHours: 1}
	once := v1alpha1.EnrollmentTokenSpec{MaxUses: ptr.To[int32](1)}
	for _, tc := range []struct {
		name   string
		spec   v1alpha1.EnrollmentTokenSpec
		uses   int32
		secret handout
		now    time.Time
		usable metav1.ConditionStatus
		reason string
		also   []string // abnormal-true conditions
		event  string
	}{
		{name: "good", spec: hour, now: noon, usable: metav1.ConditionTrue, reason: "Usable"},
		{name: "expired", spec: hour, now: noon.Add(time.Hour), usable: metav1.ConditionFalse, reason: "Expired", event: "Normal"},
		{name: "used up", spec: once, uses: 1, now: noon, usable: metav1.ConditionFalse, reason: "UsedUp", event: "Normal"},
		{name: "somebody's Secret is in the way", spec: hour, secret: inTheWay, now: noon, usable: metav1.ConditionFalse, reason: "SecretExists", also: []string{"Stalled"}, event: "Warning"},
		{name: "an older Secret is about to go", spec: hour, secret: waits, now: noon, usable: metav1.ConditionFalse, reason: "SecretPending", also: []string{"Reconciling"}, event: "Normal"},
		{name: "the master key is another", spec: hour, secret: keyReplaced, now: noon, usable: metav1.ConditionFalse, reason: "KeyReplaced", also: []string{"Stalled"}, event: "Warning"},
		{name: "nobody needs what is wrong with one that expired", spec: hour, secret: keyReplaced, now: noon.Add(time.Hour), usable: metav1.ConditionFalse, reason: "Expired", event: "Normal"},
		{name: "nor with one that is used up", spec: once, uses: 1, secret: inTheWay, now: noon, usable: metav1.ConditionFalse, reason: "UsedUp", event: "Normal"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			recorder := events.NewFakeRecorder(1)
			r := &TokenReconciler{Options{Events: recorder}}
			token := &v1alpha1.EnrollmentToken{ObjectMeta: metav1.ObjectMeta{Name: "t", CreationTimestamp: metav1.NewTime(noon)}, Spec: tc.spec}
			token.Status.Uses = &tc.uses
			for _, was := range []string{"Stalled", "Reconciling"} { // neither outlives its reason
				meta.SetStatusCondition(&token.Status.Conditions, metav1.Condition{Type: was, Status: metav1.ConditionTrue, Reason: "Before"})
			}
			r.setConditions(token, usable(token, time.Hour, tc.now, tc.secret))
			want := map[string]metav1.ConditionStatus{"Usable": tc.usable}
			for _, c := range tc.also {
				want[c] = metav1.ConditionTrue
			}
			got := map[string]metav1.ConditionStatus{}
			for _, c := range token.Status.Conditions {
				got[c.Type] = c.Status
				if c.Reason != tc.reason || c.Message == "" {
					t.Errorf("%s has the reason %s and says %q, want %s", c.Type, c.Reason, c.Message, tc.reason)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
			event := ""
			select {
			case event = <-recorder.Events:
			default:
			}
			if kind, _, _ := strings.Cut(event, " "); kind != tc.event {
				t.Errorf("the event is %q, want a %s one", event, tc.event)
			}
		})
	}
}
