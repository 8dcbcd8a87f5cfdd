package endpoint

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

const day = 86400

// expect judges and compares one condition: status/reason, or "" for its absence, and what its message says.
func expect(t *testing.T, f *facts, condition, want, says string) verdict {
	t.Helper()
	v := judge(f)
	c := meta.FindStatusCondition(v.conditions, condition)
	if c == nil {
		if want != "" {
			t.Errorf("no condition %s, want %s", condition, want)
		}
		return v
	}
	if got := string(c.Status) + "/" + c.Reason; got != want || !strings.Contains(c.Message, says) {
		t.Errorf("%s is %s %q, want %s, saying %q", condition, got, c.Message, want, says)
	}
	return v
}

func TestInSync(t *testing.T) {
	otherPolicy := agent(func(a *v1alpha1.EndpointAgent) { a.PolicyID = "other" })
	oldRevision := agent(func(a *v1alpha1.EndpointAgent) { a.PolicyRevision = 2 })
	noPolicy := func(f *facts) { f.policy = nil }
	declared := func(i v1alpha1.Isolation) fact { return func(f *facts) { f.Spec.Isolation = i } }
	proxy := func(mode v1alpha1.ProxyMode, url v1alpha1.ProxyURL) fact {
		return func(f *facts) { f.Spec.Proxy = &v1alpha1.DeclaredProxy{Mode: mode, URL: url} }
	}
	uses := func(url v1alpha1.Text) fact { return agent(func(a *v1alpha1.EndpointAgent) { a.Proxy = url }) }
	isolated := agent(func(a *v1alpha1.EndpointAgent) { a.Isolation = v1alpha1.Isolated })
	for _, tt := range []struct {
		name       string
		given      []fact
		want, says string
	}{
		{"nobody has enrolled", []fact{notEnrolled}, "Unknown/NotEnrolled", "no machine"},
		{"nothing is reported yet", []fact{neverSeen}, "Unknown/NeverSeen", "not said"},
		{"all is applied", nil, "True/Applied", ""},
		{"an older revision", []fact{oldRevision}, "False/PolicyPending", "policy demo: revision 3 comes with its next heartbeat, it runs revision 2"},
		{"another policy", []fact{otherPolicy}, "False/PolicyPending", "policy demo comes with its next heartbeat"},
		{"a policy of before", []fact{noPolicy}, "False/PolicyPending", "the defaults come"},
		{"the defaults", []fact{noPolicy, agent(func(a *v1alpha1.EndpointAgent) { a.PolicyID, a.PolicyRevision = "", 0 })}, "True/Applied", ""},
		{"it sleeps", []fact{now(9999), oldRevision}, "False/WaitingForEndpoint", "revision 3"},
		{"it sleeps, and has all", []fact{now(9999)}, "True/Applied", ""},
		{"it has refused an order", []fact{oldRevision, agent(func(a *v1alpha1.EndpointAgent) { a.RejectedOrders, a.LastRejection = 1, "policy: Superseded" })}, "False/PolicyPending", "refused an order: policy: Superseded"},
		{"isolation is declared", []fact{declared(v1alpha1.Isolated)}, "False/IsolationDiffers", "declared Isolated, and the machine is Released"},
		{"and there", []fact{declared(v1alpha1.Isolated), isolated}, "True/Applied", ""},
		{"release is declared", []fact{declared(v1alpha1.Released), isolated}, "False/IsolationDiffers", "declared Released, and the machine is Isolated"},
		{"and there, without a word", []fact{declared(v1alpha1.Released)}, "True/Applied", ""},
		{"isolation is not declared", []fact{isolated}, "True/Applied", ""},
		{"a proxy is declared", []fact{proxy(v1alpha1.ProxyManual, "http://proxy:3128")}, "False/ProxyDiffers", "declared http://proxy:3128, and the agent uses none"},
		{"and used", []fact{proxy(v1alpha1.ProxyManual, "http://proxy:3128"), uses("http://proxy:3128")}, "True/Applied", ""},
		{"none is declared", []fact{proxy(v1alpha1.ProxyDirect, ""), uses("http://proxy:3128")}, "False/ProxyDiffers", "declared none"},
	} {
		t.Run(tt.name, func(t *testing.T) { expect(t, given(tt.given...), v1alpha1.EndpointInSync, tt.want, tt.says) })
	}
}

func TestHealthy(t *testing.T) {
	skewed := func(seconds int32) fact {
		return agent(func(a *v1alpha1.EndpointAgent) { a.ClockSkewSeconds = ptr.To(seconds) })
	}
	for _, tt := range []struct {
		name       string
		given      []fact
		want, says string
		next       int // second; 121 is the deadline for heartbeats
	}{
		{"nothing is wrong", nil, "True/NoProblem", "", 121},
		{"nobody has enrolled", []fact{notEnrolled}, "Unknown/NotEnrolled", "", 0},
		{"it is offline", []fact{now(9999)}, "Unknown/HeartbeatsMissed", "last heartbeat", 15 * day},
		{"a clock within bounds", []fact{skewed(300)}, "True/NoProblem", "", 121},
		{"content that fails", []fact{func(f *facts) { f.Status.Agent.ContentError = "DigestDiffers: content 1042 not applied: it differs" }}, "False/ContentFailed", "content 1042 not applied: it differs", 121},
		{"a clock ahead", []fact{skewed(430)}, "False/ClockSkewed", "clock is 7m10s ahead of the fleet's", 121},
		{"a clock behind", []fact{skewed(-430)}, "False/ClockSkewed", "clock is 7m10s behind the fleet's", 121},
		{"the certificate was not renewed in time", []fact{certificateEnds(5*day - 10)}, "False/CertificateExpiring", "expires 2026-11-29 11:59:50Z", 121},
		{"the certificate expires first", []fact{certificateEnds(100)}, "False/CertificateExpiring", "", 100},
		{"the certificate will have to be renewed", []fact{certificateEnds(5*day + 100)}, "True/NoProblem", "", 100},
		{"the certificate has expired", []fact{certificateEnds(0)}, "False/CertificateExpired", "can renew it until 2026-12-24", 121},
		{"worse than its clock", []fact{certificateEnds(0), skewed(430)}, "False/CertificateExpired", "", 121},
		{"for good", []fact{certificateEnds(-30 * day)}, "False/CertificateExpired", "enrol the machine again", 121},
		{"while it was offline", []fact{now(9999), certificateEnds(0)}, "Unknown/HeartbeatsMissed", "", 30 * day},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := expect(t, given(tt.given...), v1alpha1.EndpointHealthy, tt.want, tt.says)
			if want := at(tt.next); tt.next == 0 && !v.next.IsZero() || tt.next != 0 && !v.next.Equal(want) {
				t.Errorf("judged again at %s, want %s", v.next, want)
			}
		})
	}
}

func TestConflict(t *testing.T) {
	for _, tt := range []struct {
		name                string
		given               []fact
		want, stalled, says string
	}{
		{name: "none"},
		{name: "a clone", given: []fact{cloned}, want: "True/Cloned", stalled: "True/IdentityConflict", says: "the agents one and two started from the same state: one machine is a copy of the other. " +
			"Say which one is the true one: kubectl annotate --overwrite -n fleet fep/laptop rollcall.dev/accept-instance=<its instance>. Or enrol one of them again."},
		{name: "a snapshot", given: []fact{rolledBack}, want: "True/RolledBack", stalled: "True/IdentityConflict", says: "the agent two counts fewer starts than one, or was replaced by it before: " +
			"a machine was restored from a backup or a snapshot. If only the restored one is left, say so: kubectl annotate --overwrite -n fleet fep/laptop rollcall.dev/accept-instance=two. " +
			"If one is the true one, name that."},
		{name: "a lost journal", given: []fact{journals("a", "b")}, want: "True/JournalLost", stalled: "True/IdentityConflict", says: "its agent has lost its journal, and knows no longer what it has done " +
			"and what it still had to: its state was deleted or damaged. Actions that it was given before may have happened or not. If the machine is all right, say so: " +
			"kubectl annotate --overwrite -n fleet fep/laptop rollcall.dev/accept-instance=one. Or enrol it again."},
		{name: "the same journal", given: []fact{journals("a", "a")}},
		{name: "an agent that names no journal", given: []fact{journals("a", "")}},
		{name: "a lost journal of a clone: which machine it is comes first", given: []fact{journals("a", "b"), cloned}, want: "True/Cloned", stalled: "True/IdentityConflict"},
		{name: "an outdated certificate, seen by enrolment", given: []fact{superseded}, want: "True/CertificateSuperseded", stalled: "True/IdentityConflict", says: "as it was"},
		{name: "the connected one is the true one", given: []fact{superseded, accepts("one")}},
		{name: "another one is", given: []fact{superseded, accepts("other")}, want: "True/CertificateSuperseded", stalled: "True/IdentityConflict"},
		{name: "both kinds", given: []fact{superseded, cloned}, want: "True/CertificateSuperseded", stalled: "True/IdentityConflict"},
		{name: "two instances, until the true one was heard", given: []fact{cloned, accepts("two")}, want: "True/Cloned", stalled: "True/IdentityConflict"},
		{name: "a certificate that must be replaced", given: []fact{certificateEnds(-30 * day)}, stalled: "True/CertificateExpired"},
		{name: "a certificate that the agent renews", given: []fact{certificateEnds(-30*day + 10)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := given(tt.given...)
			expect(t, f, v1alpha1.EndpointIdentityConflict, tt.want, tt.says)
			v := expect(t, f, v1alpha1.ConditionStalled, tt.stalled, "")
			record(f, v)
			for _, c := range []struct{ name, want string }{{v1alpha1.EndpointIdentityConflict, tt.want}, {v1alpha1.ConditionStalled, tt.stalled}} {
				if is := meta.FindStatusCondition(f.Status.Conditions, c.name) != nil; is != (c.want != "") {
					t.Errorf("%s is in the status: %v", c.name, is)
				}
			}
		})
	}
}

func TestKeepJournal(t *testing.T) {
	for _, tt := range []struct {
		name  string
		given []fact
		want  string
	}{
		{"nobody has enrolled", []fact{notEnrolled}, ""},
		{"nothing is reported yet", []fact{neverSeen}, ""},
		{"the first is its own", []fact{journals("", "a")}, "a"},
		{"which stays", []fact{journals("a", "b")}, "a"},
		{"which stays, though an agent names none", []fact{journals("a", "")}, "a"},
		{"until a person accepts who has another", []fact{journals("a", "b"), accepts("one")}, "b"},
		{"not who had it before", []fact{journals("a", "b"), accepts("zero")}, "a"},
		{"an agent that names none, accepted", []fact{journals("a", ""), accepts("one")}, "a"},
	} {
		f := given(tt.given...)
		keepJournal(f.Endpoint)
		got := ""
		if f.Status.Identity != nil {
			got = f.Status.Identity.JournalID
		}
		if got != tt.want {
			t.Errorf("%s: %q is kept, want %q", tt.name, got, tt.want)
		}
	}
}

func TestSummary(t *testing.T) {
	isolated := agent(func(a *v1alpha1.EndpointAgent) { a.Isolation = v1alpha1.Isolated })
	skewed := agent(func(a *v1alpha1.EndpointAgent) { a.ClockSkewSeconds = ptr.To[int32](430) })
	drifted := agent(func(a *v1alpha1.EndpointAgent) { a.PolicyRevision = 2 })
	version := func(v v1alpha1.Text) fact { return agent(func(a *v1alpha1.EndpointAgent) { a.Version = v }) }
	noWebsocket := func(f *facts) { f.Status.Connection.Error = "the upgrade was answered with 403" }
	unwanted := func(f *facts) { f.policy.Spec.CommandChannel = &v1alpha1.CommandChannelPolicy{Mode: "HeartbeatOnly"} }
	offline := now(9999)
	everything := []fact{offline, cloned, isolated, skewed, drifted, certificateEnds(0)}
	for _, tt := range []struct {
		name          string
		given         []fact
		word, message string
	}{
		{"well", nil, "Online", ""},
		{"decommissioned", append([]fact{lifecycle("Decommissioned")}, everything...), "Decommissioned", "refused for good: remove the agent from the machine"},
		{"blocked", append([]fact{lifecycle("Blocked")}, everything...), "Blocked", "refused, and its machine may not enrol again"},
		{"suspended", append([]fact{lifecycle("Suspended")}, everything...), "Suspended", "refused until spec.lifecycle is Active again"},
		{"suspended before it has enrolled", []fact{lifecycle("Suspended"), notEnrolled}, "Suspended", "refused until spec.lifecycle is Active again"},
		{"two machines", everything, "Conflict", "two machines use this identity; actions are held"},
		{"one that was set back", []fact{rolledBack}, "Conflict", "a machine with this identity was set back to an earlier state; actions are held"},
		{"one that has lost its journal", []fact{journals("a", "b")}, "Conflict", "its agent has lost the journal of what it did; actions are held"},
		{"an outdated copy", []fact{superseded}, "Conflict", "a machine holds an outdated copy of this identity; actions are held"},
		{"declared", []fact{notEnrolled}, "NotEnrolled", "no machine has enrolled: make an EnrollmentToken with endpointName laptop"},
		{"silent", []fact{offline, isolated, skewed, drifted}, "Offline", "last heartbeat 2026-11-24 12:00:00Z, at least 3 missed"},
		{"silent, and its certificate has expired", []fact{offline, certificateEnds(0)}, "Offline", "last heartbeat 2026-11-24 12:00:00Z, at least 3 missed; its certificate expired 2026-11-24 12:00:00Z; the agent can renew it until 2026-12-24 12:00:00Z"},
		{"new", []fact{neverSeen}, "Unknown", "enrolled, and no heartbeat has come yet"},
		{"no gateway", []fact{now(9999), listened(-999, 10), missing(10), isolated, skewed, drifted}, "Unknown", "no gateway is alive since 2026-11-24 12:00:10Z; last heartbeat 2026-11-24 12:00:00Z"},
		{"failing", []fact{isolated, skewed, drifted}, "Failing", "the machine's clock is 7m10s ahead of the fleet's: set it"},
		{"isolated", []fact{isolated}, "Isolated", ""},
		{"isolated, and behind", []fact{isolated, drifted}, "Isolated", "policy demo: revision 3 comes with its next heartbeat, it runs revision 2"},
		{"behind", []fact{drifted}, "Updating", "policy demo: revision 3 comes with its next heartbeat, it runs revision 2"},
		{"an old agent", []fact{version("6.0.4")}, "Online", "agent 6.0.4: the websocket needs 6.1 or later"},
		{"an old agent, and no websocket is wanted", []fact{version("6.0.4"), unwanted}, "Online", ""},
		{"the first that has one", []fact{version("6.1.0")}, "Online", ""},
		{"an agent that names no version", []fact{version("")}, "Online", ""},
		{"no websocket", []fact{noWebsocket}, "Online", "no websocket: the upgrade was answered with 403; actions wait for heartbeats"},
		{"a websocket", []fact{session}, "Online", ""},
		{"a websocket, and those before it did not last", []fact{noWebsocket, session}, "Online", "the websocket does not last: the upgrade was answered with 403"},
		{"a session that has ended", []fact{now(60), sessionEnded(55, "")}, "Online", "its session has ended; offline if no heartbeat comes by 2026-11-24 12:02:56Z"},
		{"a session whose gateway is gone", []fact{now(60), sessionEnded(55, "its gateway is gone")}, "Online", "no websocket: its gateway is gone; actions wait for heartbeats"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := given(tt.given...)
			record(f, judge(f))
			if f.Status.Summary != tt.word || f.Status.Message != tt.message {
				t.Errorf("%s %q, want %s %q", f.Status.Summary, f.Status.Message, tt.word, tt.message)
			}
			if f.Status.ObservedGeneration != 3 {
				t.Errorf("generation %d is observed, want 3", f.Status.ObservedGeneration)
			}
		})
	}
}

func TestOfflineTakesTheChannelAway(t *testing.T) {
	f := given(now(9999), func(f *facts) { f.Status.Connection.Gateway = "gw-a" })
	record(f, judge(f))
	if c := f.Status.Connection; c.Channel != v1alpha1.ChannelNone || c.Gateway != "" || !c.SinceTime.Time.Equal(f.now) || c.InstanceID != "one" {
		t.Errorf("the connection is %+v", c)
	}
	f.now = f.now.Add(time.Hour)
	before := *f.Status.DeepCopy()
	if next := record(f, judge(f)); next <= 0 || next > 30*24*time.Hour { // its certificate's end
		t.Errorf("judged again in %s", next)
	}
	if !before.Connection.SinceTime.Equal(f.Status.Connection.SinceTime) {
		t.Error("judged again, it has become offline again")
	}
}

// Judging is idempotent: a second time, nothing changes, so nothing is written.
func TestJudgedTwiceNothingChanges(t *testing.T) {
	for _, changes := range [][]fact{nil, {notEnrolled}, {neverSeen}, {now(9999)}, {cloned}, {superseded}, {now(9999), neverListened}, {certificateEnds(0)}} {
		f := given(changes...)
		record(f, judge(f))
		before := f.Status.DeepCopy()
		f.now = f.now.Add(50 * time.Millisecond)
		record(f, judge(f))
		if diff := cmp.Diff(*before, f.Status); diff != "" {
			t.Error(diff)
		}
	}
}

func TestCut(t *testing.T) {
	if s := cut(strings.Repeat("ü", 256)); s != strings.Repeat("ü", 256) {
		t.Error("256 characters were cut")
	}
	if s := cut(strings.Repeat("ü", 257)); s != strings.Repeat("ü", 255)+"…" {
		t.Errorf("257 characters became %q", s)
	}
}

func TestLabel(t *testing.T) {
	reported := func(name, arch v1alpha1.Text) fact {
		return func(f *facts) {
			f.Status.Inventory = &v1alpha1.EndpointInventory{OS: &v1alpha1.EndpointOS{Name: name, Arch: arch}}
		}
	}
	f := given(reported("Debian GNU/Linux", "amd64"), func(f *facts) { f.Labels = map[string]string{"site": "lab"} })
	if !label(f.Endpoint) || f.Labels[labelOS] != "debian-gnu-linux" || f.Labels[labelArch] != "amd64" || f.Labels["site"] != "lab" {
		t.Errorf("labels are %v", f.Labels)
	}
	if label(f.Endpoint) {
		t.Error("a second time, labels change")
	}
	reported("", "arm64")(f)
	if !label(f.Endpoint) || f.Labels[labelOS] != "debian-gnu-linux" || f.Labels[labelArch] != "arm64" {
		t.Errorf("what is reported no longer went: %v", f.Labels)
	}
	if label(given().Endpoint) {
		t.Error("a label was made of nothing")
	}
}

// Whatever an agent reports makes a label that the API takes, or none.
func TestLabelValue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := labelValue(rapid.String().Draw(t, "reported"))
		if wrong := validation.IsValidLabelValue(value); len(wrong) > 0 {
			t.Fatalf("%q: %v", value, wrong)
		}
	})
}

// Whatever happened, one write holds it: every verdict keeps the API's bounds and has each condition once.
func TestVerdictsKeepTheBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		long := v1alpha1.Text(rapid.StringN(0, 128, 128).Draw(t, "rejection"))
		f := given(agent(func(a *v1alpha1.EndpointAgent) {
			a.PolicyRevision, a.RejectedOrders, a.LastRejection = rapid.Int64().Draw(t, "revision"), 1, long
			a.Version = v1alpha1.Text(rapid.String().Draw(t, "version"))
		}), func(f *facts) {
			f.Status.Connection.Error = strings.Repeat("ü", rapid.IntRange(0, 256).Draw(t, "error"))
		})
		record(f, judge(f))
		if n := len([]rune(f.Status.Message)); n > maxMessage {
			t.Fatalf("a message of %d characters", n)
		}
		seen := map[string]bool{}
		for _, c := range f.Status.Conditions {
			if seen[c.Type] || c.Reason == "" || c.LastTransitionTime.IsZero() || c.Status == metav1.ConditionStatus("") {
				t.Fatalf("condition %+v", c)
			}
			seen[c.Type] = true
		}
	})
}
