package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/audit"
	"github.com/rollcall-dev/rollcall/test/harness"
	"github.com/rollcall-dev/rollcall/test/rogue"
)

// verdict is who refuses a misdeed, and where people see it.
type verdict struct{ by, shown string }

type row struct {
	misdeed string
	verdict
}

// underRogue is a system of which one gateway is in an attacker's hands.
type underRogue struct {
	*system
	*tenant
	socket string
	via    *balancer // the laptop's way to a gateway
	direct *system   // as it looks to agents that dial the rogue
	laptop struct {
		*realAgent
		name string
	}
	bystander struct {
		*realAgent
		name string
	}
	outer  testing.TB // for what outlives a row
	victim *victim
	terms  int // that the victim got by right
	// forbidden are the gateway's requests that the audit log had as refused when it was last asked.
	forbidden int
	rows      []row
}

// TestRogue puts a gateway into an attacker's hands, with all that a gateway has, and has it try what a gateway must not be able to do. No agent may
// do anything by it; each misdeed is refused by whom docs/threat-model.md says, and people see it where it says.
func TestRogue(t *testing.T) {
	t.Parallel()
	x := startRogue(t)
	x.terminates(t, "before") // so that what follows is not refused for want of a way
	x.try(t, rogue.Withhold, rogue.Ask{})
	x.try(t, rogue.Keep, rogue.Ask{Endpoint: x.laptop.name})
	x.try(t, rogue.Rewind, rogue.Ask{}) // the time stands still from now on
	for name, seconds := range map[string]int{
		"late": 5, "held": 5, "later": 5, "mine": 3600, "open": 3600, "forged": 3600, "forged-old": 3600, "forged-other": 3600, "unproven": 3600,
	} {
		x.act(t, name, x.laptop.name, "TerminateProcess", fmt.Sprintf("terminateProcess: {executable: %s}, startingDeadlineSeconds: %d", x.victim.path, seconds))
	}
	x.act(t, "other", x.laptop.name, "TerminateProcess", "terminateProcess: {executable: /nonexistent}")
	x.act(t, "taken-back", x.laptop.name, "PerformHeartbeat", "")
	x.admitted(t, "late", "held", "later", "mine", "open", "forged", "forged-old", "forged-other", "unproven", "other", "taken-back")

	x.row(t, "forge an order", func(t *testing.T) verdict {
		return x.refusedByLaptop(t, "action: SignatureInvalid", 4, rogue.Forge, rogue.Ask{Program: x.victim.path})
	})
	x.row(t, "alter an order", func(t *testing.T) verdict {
		return x.refusedByLaptop(t, "action: SignatureInvalid", 2, rogue.Alter, rogue.Ask{Action: "other", Program: x.victim.path})
	})
	x.row(t, "send another endpoint's order, as it is or readdressed", func(t *testing.T) verdict {
		x.refusedBy(t, x.bystander.realAgent, x.bystander.name, "action: SignatureInvalid", 1, rogue.Readdress, rogue.Ask{Action: "mine"})
		return x.refusedBy(t, x.bystander.realAgent, x.bystander.name, "action: OtherIdentity", 1, rogue.Replay, rogue.Ask{Action: "mine"})
	})
	x.row(t, "send an order a second time", x.repeated)
	x.row(t, "send an order after its deadline", func(t *testing.T) verdict {
		x.endsAs(t, "late", v1alpha1.ActionExpired, "DeadlineExceeded")
		x.try(t, rogue.Replay, rogue.Ask{Endpoint: x.laptop.name, Action: "late"})
		return x.reportedLate(t, "late", v1alpha1.ActionExpired, "Refused (PastDeadline)")
	})
	x.row(t, "stop time, and wait until the agent starts again", func(t *testing.T) verdict { return x.restarted(t, "held") })
	x.try(t, rogue.Honest, rogue.Ask{})
	x.heardAfter(t, x.laptop.accepted(t), 2)
	x.row(t, "turn time back, for an agent that starts again", func(t *testing.T) verdict {
		x.try(t, rogue.Rewind, rogue.Ask{})
		return x.restarted(t, "later")
	})
	x.try(t, rogue.Honest, rogue.Ask{})
	x.row(t, "serve another group's policy, or another endpoint's assignment", func(t *testing.T) verdict {
		return x.refusedByLaptop(t, "policy: OtherPolicy", 2, rogue.OtherPolicy, rogue.Ask{Other: x.bystander.name, Policy: "lax"})
	})
	x.row(t, "go back to an earlier policy", x.relapsed)
	x.row(t, "offer content of its own, of another namespace, or that was withdrawn", x.offered)
	x.row(t, "hand a new agent its own root", x.ownRoot)
	x.row(t, "enrol without proof", x.enrolled)
	x.row(t, "pose as somebody else", func(t *testing.T) verdict {
		did := x.try(t, rogue.Pose, rogue.Ask{})
		x.all(t, did[:1], "denied by the manager: NameNotAllowed")
		x.all(t, did[1:], "gateway-csr.rollcall.dev")
		return verdict{"manager, policy gateway-csr", "manager's log; " + x.audited(t)}
	})
	x.row(t, "rewrite what the manager has written of an action", func(t *testing.T) verdict {
		x.all(t, x.try(t, rogue.RewriteAction, rogue.Ask{Action: "open", Other: x.bystander.name}), "action-status-sections.rollcall.dev")
		return verdict{"policy action-status-sections", x.audited(t)}
	})
	x.row(t, "rewrite what the manager has written of an endpoint", func(t *testing.T) verdict {
		x.all(t, x.try(t, rogue.RewriteEndpoint, rogue.Ask{Endpoint: x.laptop.name, Policy: "lax"}), "endpoint-status-sections.rollcall.dev")
		return verdict{"policy endpoint-status-sections", x.audited(t)}
	})
	x.row(t, "reopen an action, or change how it ended", func(t *testing.T) verdict {
		x.all(t, x.try(t, rogue.Reopen, rogue.Ask{Action: "before", OtherAction: "open"}), "action-status-sections.rollcall.dev")
		return verdict{"policy action-status-sections", x.audited(t)}
	})
	x.row(t, "end an action without proof", func(t *testing.T) verdict {
		x.all(t, x.try(t, rogue.EndWithoutProof, rogue.Ask{Action: "unproven"}), "needs the agent's proof")
		return verdict{"policy action-status-sections", x.audited(t)}
	})
	x.row(t, "forge a result", x.forged)
	x.row(t, "forge a child's result", x.forgedChild)
	x.row(t, "read Secrets", func(t *testing.T) verdict {
		x.all(t, x.try(t, rogue.Secrets, rogue.Ask{Token: "laptops"}), `cannot (get|list) resource "secrets"`)
		return verdict{"RBAC", x.audited(t)}
	})
	x.row(t, "create, change or delete objects", func(t *testing.T) verdict {
		x.all(t, x.try(t, rogue.Objects, rogue.Ask{Endpoint: x.laptop.name, Action: "before"}), `cannot (create|patch|delete) resource "[a-z]+" in API group "rollcall.dev"`)
		return verdict{"RBAC", x.audited(t)}
	})
	x.row(t, "take more rights", func(t *testing.T) verdict {
		x.all(t, x.try(t, rogue.Rights, rogue.Ask{}), `cannot (create|update|patch) resource`)
		return verdict{"RBAC", x.audited(t)}
	})
	x.row(t, "send an order that was cancelled before it was sent", x.takenBack)
	x.row(t, "send an order to a machine that has enrolled again", x.reenrolled)
	x.afterwards(t)
	x.print(t)
}

// startRogue starts it beside an honest gateway, with two agents that dial it and a program that they could end.
func startRogue(t *testing.T) *underRogue {
	t.Helper()
	s := startSystem(t, steadyManager, sessionGateway)
	x := &underRogue{outer: t, system: s, tenant: s.tenant(t, "laptops", "bystanders", "newcomers", "again"), victim: startVictim(t)}
	direct := *s
	direct.GatewayAddress = freeAddress(t)
	x.direct = &direct
	x.launchRogue(t)
	x.via = startBalancer(t, direct.GatewayAddress)
	front := *s
	front.GatewayAddress = x.via.Addr().String()
	x.Apply(t, `{apiVersion: rollcall.dev/v1alpha1, kind: EndpointPolicy, metadata: {name: fast}, spec: {heartbeat: {intervalSeconds: 1, missed: 30}}}`)
	x.Apply(t, `{apiVersion: rollcall.dev/v1alpha1, kind: EndpointPolicy, metadata: {name: lax},
		spec: {priority: 5, selector: {matchLabels: {group: lax}}, heartbeat: {intervalSeconds: 1, missed: 30}}}`)
	x.laptop.realAgent = front.startAgent(t, "laptop", x.tokenText(t, "laptops", "{expiresAfterHours: 0, labels: {group: laptops}}"), sessionAgent...)
	x.laptop.name = firstEndpoint(t, x.tenant)
	x.bystander.realAgent, x.bystander.name = direct.laptop(t, x.tenant, x.tokenText(t, "bystanders", "{expiresAfterHours: 0, labels: {group: lax}}"))
	channelIs(t, x.tenant, x.laptop.realAgent, x.laptop.name, v1alpha1.ChannelWebSocket, "", "connected")
	return x
}

// launchRogue starts it as a gateway is started: with the token that the manager writes.
func (x *underRogue) launchRogue(t *testing.T) {
	t.Helper()
	kubeconfig := filepath.Join(x.Dir, "rogue.kubeconfig")
	if err := local.WriteKubeconfig(kubeconfig, x.Admin, "", local.Namespace); err != nil {
		t.Fatal(err)
	}
	x.socket = filepath.Join(t.TempDir(), "rogue.sock")
	p, err := local.StartEnv("rogue", filepath.Join(x.LogDir, "rogue.log"), []string{raceless}, filepath.Join(x.Bin, "rollcall-rogue"),
		"--kubeconfig="+kubeconfig, "--token-file="+filepath.Join(x.Dir, "gateway.token"), "--listen="+x.direct.GatewayAddress, "--names=localhost,127.0.0.1",
		"--lease-duration=3s", "--lease-renew=1s", "--artifact-store=file://"+filepath.Join(x.Dir, "artifacts"), "--control="+x.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Stop(5 * time.Second)
		if t.Failed() {
			t.Logf("the rogue's last words:\n%s", local.Tail(p.Log, 30))
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := p.WaitFor(ctx, func(ctx context.Context) error { return rogue.IsReady(ctx, x.socket) }); err != nil {
		t.Fatal(err)
	}
}

// try has the rogue try a misdeed.
func (x *underRogue) try(t testing.TB, m rogue.Misdeed, a rogue.Ask) []rogue.Attempt {
	t.Helper()
	a.Namespace = x.ns
	did, err := rogue.Try(t.Context(), x.socket, m, a)
	if err != nil {
		t.Fatal(err)
	}
	return did
}

// all asks that each attempt was refused, with these words.
func (x *underRogue) all(t testing.TB, did []rogue.Attempt, words string) {
	t.Helper()
	if len(did) == 0 {
		t.Error("it has tried nothing")
	}
	for _, a := range did {
		t.Log(a)
		if !regexp.MustCompile(words).MatchString(a.Refused) {
			t.Errorf("%s: it is not answered with %q, but %q", a.What, words, a.Refused)
		}
	}
}

// row tries one thing, and asks that the victim lives.
func (x *underRogue) row(t *testing.T, misdeed string, try func(*testing.T) verdict) {
	t.Helper()
	t.Run(misdeed, func(t *testing.T) {
		began := time.Now()
		v := try(t)
		if got := x.victim.terms(t); got != x.terms {
			t.Errorf("the victim was asked to end %d times, %d by right", got, x.terms)
		}
		x.rows = append(x.rows, row{misdeed, v})
		t.Logf("%s: refused by %s; shown by %s (%s)", misdeed, v.by, v.shown, time.Since(began).Round(time.Millisecond))
	})
}

// print shows the table, and holds the threat model to it: each row is there, with who refuses it, and no other is.
func (x *underRogue) print(t *testing.T) {
	t.Helper()
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "it tries to\trefused by\tshown by")
	claims := claimed(t)
	for _, r := range x.rows {
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.misdeed, r.by, r.shown)
		if by, ok := claims[r.misdeed]; !ok || !strings.HasPrefix(by, r.by) {
			t.Errorf("the threat model says that who refuses to %s is %q, and it is %s", r.misdeed, by, r.by)
		}
		delete(claims, r.misdeed)
	}
	_ = w.Flush() // into memory
	t.Logf("\n%s", table.String())
	for misdeed := range claims {
		t.Errorf("the threat model claims that this is tried: %s", misdeed)
	}
}

// claimed are the rows of the threat model's table: who refuses each misdeed. What is behind a colon there says it in detail.
func claimed(t *testing.T) map[string]string {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "threat-model.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(doc), "| it tries to | refused by | seen in |\n|---|---|---|\n")
	if !ok {
		t.Fatal("the threat model has no such table")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	plain := strings.NewReplacer("`", "", "*", "", ";", ",")
	claims := map[string]string{}
	for row := range strings.Lines(table) {
		cells := strings.Split(row, " | ")
		misdeed, _, _ := strings.Cut(strings.TrimPrefix(cells[0], "| "), ":")
		claims[misdeed] = plain.Replace(cells[1])
	}
	return claims
}

// told is what an agent says of the orders that it has refused, and of what it obeys.
type told struct {
	Orders struct {
		Rejected      int
		LastRejection string
	}
	Policy struct {
		ID       string
		Revision int64
	}
	Trust    struct{ Version int64 }
	Endpoint struct{ Identity string }
}

func (a *realAgent) told(t testing.TB) (s told) {
	t.Helper()
	out, _ := a.cytool(t, "status", "-o", "json")
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return s
}

func (x *underRogue) refusedByLaptop(t *testing.T, reason string, least int, m rogue.Misdeed, a rogue.Ask) verdict {
	t.Helper()
	return x.refusedBy(t, x.laptop.realAgent, x.laptop.name, reason, least, m, a)
}

// refusedBy has an agent lied to, and waits until it says, and people see, that it has refused at least so many orders, and the last for a reason.
func (x *underRogue) refusedBy(t *testing.T, agent *realAgent, name, reason string, least int, m rogue.Misdeed, a rogue.Ask) verdict {
	t.Helper()
	before := agent.told(t)
	a.Endpoint = name
	x.try(t, m, a)
	defer x.try(t, rogue.Hush, rogue.Ask{})
	harness.Eventually(t, soon, func() error {
		if now := agent.told(t).Orders; now.Rejected < before.Orders.Rejected+least || now.LastRejection != reason {
			return fmt.Errorf("it has refused %d orders, then %d, the last for %q", before.Orders.Rejected, now.Rejected, now.LastRejection)
		}
		return nil
	})
	harness.Eventually(t, soon, func() error {
		said := get[v1alpha1.Endpoint](t, x.tenant, name).Status.Agent
		if int(said.RejectedOrders) < before.Orders.Rejected+least || string(said.LastRejection) != reason {
			return fmt.Errorf("people see %d refused orders, the last for %q", said.RejectedOrders, said.LastRejection)
		}
		return nil
	})
	line := lineOf(t, x.Kubectl(t, "describe", "fep", name), "Last Rejection:")
	out, _ := agent.cytool(t, "status")
	lineOf(t, out, "Refused orders")
	after := agent.told(t)
	if after.Policy != before.Policy || after.Trust != before.Trust || after.Endpoint != before.Endpoint {
		t.Errorf("the agent obeys %+v, before %+v", after, before)
	}
	return verdict{"agent", "kubectl describe fep: " + line + "; cytool status"}
}

// lineOf is the line that has a word, its white space made single.
func lineOf(t testing.TB, text, word string) string {
	t.Helper()
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			return strings.Join(strings.Fields(line), " ")
		}
	}
	t.Errorf("nothing says %q:\n%s", word, text)
	return ""
}

// admitted waits until the manager has signed actions.
func (x *underRogue) admitted(t testing.TB, names ...string) {
	t.Helper()
	harness.Eventually(t, soon, func() error {
		for _, name := range names {
			if a := get[v1alpha1.EndpointAction](t, x.tenant, name); a.Status.Admission == nil {
				return fmt.Errorf("%s is %s: %s", name, a.Status.Phase, a.Status.Message)
			}
		}
		return nil
	})
}

// terminates has the victim ended by right.
func (x *underRogue) terminates(t testing.TB, name string) {
	t.Helper()
	x.terminate(t, name, x.laptop.name, x.victim, "")
	x.endsAs(t, name, v1alpha1.ActionSucceeded, "Done")
	<-x.victim.pids // it was started again
	if x.terms++; x.victim.terms(t) != x.terms {
		t.Errorf("the victim was asked to end %d times, %d by right", x.victim.terms(t), x.terms)
	}
}

// repeated: an order that was carried out is known by the agent's journal.
func (x *underRogue) repeated(t *testing.T) verdict {
	before := get[v1alpha1.EndpointAction](t, x.tenant, "before")
	beats := x.laptop.accepted(t)
	x.try(t, rogue.Replay, rogue.Ask{Endpoint: x.laptop.name, Action: "before"})
	defer x.try(t, rogue.Hush, rogue.Ask{})
	x.heardAfter(t, beats, 3)
	if after := get[v1alpha1.EndpointAction](t, x.tenant, "before"); after.ResourceVersion != before.ResourceVersion {
		t.Errorf("the action has changed: %+v", after.Status)
	}
	return verdict{"agent", "nothing happens: its journal has the action, and it repeats the result"}
}

// heardAfter waits until so many more heartbeats of the laptop were accepted.
func (x *underRogue) heardAfter(t testing.TB, before, more int) {
	t.Helper()
	harness.Eventually(t, soon, func() error {
		if now := x.laptop.accepted(t); now < before+more {
			return fmt.Errorf("%d heartbeats were accepted, then %d", before, now)
		}
		return nil
	})
}

// reportedLate waits until people see that an agent has reported after the end.
func (x *underRogue) reportedLate(t *testing.T, name string, end v1alpha1.ActionPhase, what string) verdict {
	t.Helper()
	harness.Eventually(t, soon, func() error {
		a := get[v1alpha1.EndpointAction](t, x.tenant, name)
		if !strings.HasPrefix(a.Status.Message, "reported "+what) || a.Status.Phase != end {
			return fmt.Errorf("%s is %s: %s", name, a.Status.Phase, a.Status.Message)
		}
		return nil
	})
	x.warned(t, name, "LateResult")
	x.try(t, rogue.Hush, rogue.Ask{})
	return verdict{"agent", "kubectl get epa: reported " + what + " after the end; Event LateResult"}
}

// warned waits for a Warning about an action, and returns what it says.
func (x *underRogue) warned(t testing.TB, name, reason string) (note string) {
	t.Helper()
	harness.Eventually(t, soon, func() error {
		for line := range strings.Lines(x.Kubectl(t, "describe", "epa", name)) {
			if f := strings.Fields(line); len(f) > 2 && f[0] == "Warning" && f[1] == reason {
				note = line
				return nil
			}
		}
		return errors.New("no event " + reason + ":\n" + x.Kubectl(t, "describe", "epa", name))
	})
	return note
}

// restarted: the agent starts again, and is sent the order of an action that has expired before any other time than its own floor is known to it.
func (x *underRogue) restarted(t *testing.T, name string) verdict {
	x.laptop.Stop(5 * time.Second)
	x.try(t, rogue.Replay, rogue.Ask{Endpoint: x.laptop.name, Action: name})
	x.laptop.start(t)
	return x.reportedLate(t, name, v1alpha1.ActionExpired, "Refused (PastDeadline)")
}

// relapsed: the laptop had another policy once.
func (x *underRogue) relapsed(t *testing.T) verdict {
	x.obeys(t, "fast")
	x.Kubectl(t, "label", "fep", x.laptop.name, "group=lax", "--overwrite")
	x.obeys(t, "lax")
	x.try(t, rogue.Keep, rogue.Ask{Endpoint: x.laptop.name})
	x.Kubectl(t, "label", "fep", x.laptop.name, "group=laptops", "--overwrite")
	x.obeys(t, "fast")
	return x.refusedByLaptop(t, "assignment: Superseded", 1, rogue.Relapse, rogue.Ask{})
}

// obeys waits until the laptop says that it obeys a policy.
// offered has it offer what the laptop may not run; before that it is an honest gateway to the laptop, which takes content and leaves it.
func (x *underRogue) offered(t *testing.T) verdict {
	elsewhere := x.system.tenant(t)
	p := believed(t, x.system)
	here, there := &roll{t, x.system, x.tenant, p, 2}, &roll{t, x.system, elsewhere, p, 0}
	there.publish("1044")
	here.publish("1042")
	here.publish("1043")
	here.allRun("1043")
	x.try(t, rogue.KeepOffer, rogue.Ask{Release: "content-1043"})
	here.patch("content-1043", `{"spec":{"state":"Withdrawn"}}`)
	here.allRun("1042")
	x.refusedByLaptop(t, "offer: SignatureInvalid", 1, rogue.ForgeOffer, rogue.Ask{})
	x.refusedByLaptop(t, "offer: OtherNamespace", 1, rogue.Offer, rogue.Ask{Release: "content-1044", ReleaseNamespace: elsewhere.ns})
	v := x.refusedByLaptop(t, "offer: Superseded", 1, rogue.Offer, rogue.Ask{Release: "content-1043"})
	here.allRun("1042")
	return v
}

func (x *underRogue) obeys(t testing.TB, policy string) {
	t.Helper()
	uid := string(get[v1alpha1.EndpointPolicy](t, x.tenant, policy).UID)
	harness.Eventually(t, soon, func() error {
		if said := x.laptop.told(t).Policy.ID; said != uid {
			return fmt.Errorf("it obeys policy %s, not %s (%s)", said, policy, uid)
		}
		return nil
	})
}

// ownRoot: a machine's first contact is with the rogue.
func (x *underRogue) ownRoot(t *testing.T) verdict {
	x.try(t, rogue.OwnRoot, rogue.Ask{})
	defer x.try(t, rogue.Hush, rogue.Ask{})
	a := x.direct.startAgent(t, "newcomer", x.tokenText(t, "newcomers", "{expiresAfterHours: 0}"), sessionAgent...)
	expectStatus(t, a, "server-not-of-fleet", "not")
	a.Stop(5 * time.Second)
	if got := uses(t, x.tenant, "newcomers"); got != 0 {
		t.Errorf("the token was used %d times", got)
	}
	return verdict{"agent", "cytool status: server-not-of-fleet"}
}

func (x *underRogue) enrolled(t *testing.T) verdict {
	before := len(x.endpoints(t))
	did := x.try(t, rogue.Enrol, rogue.Ask{Token: "laptops"})
	x.all(t, did[:1], "gateway-csr.rollcall.dev")
	x.all(t, did[1:2], "denied by the manager: ProofInvalid")
	x.all(t, did[2:3], "denied by the manager: CsrInvalid")
	x.all(t, did[3:], "denied by the manager: ProofInvalid")
	if after := len(x.endpoints(t)); after != before {
		t.Errorf("there are %d endpoints, before %d", after, before)
	}
	var described string
	harness.Eventually(t, soon, func() error {
		if described = x.Kubectl(t, "describe", "ept", "laptops"); !strings.Contains(described, "EnrollmentDenied") {
			return errors.New("no event EnrollmentDenied:\n" + described)
		}
		return nil
	})
	return verdict{"manager, policy gateway-csr", "kubectl describe ept: " + lineOf(t, described, "Last Denial:") + "; Event EnrollmentDenied"}
}

// audited waits until the API server's audit log has more refused requests of the gateway's account than when it was last asked.
func (x *underRogue) audited(t testing.TB) string {
	t.Helper()
	n := 0
	harness.Eventually(t, soon, func() error {
		n = 0
		err := audit.Read(x.api.AuditLog, func(e audit.Event) {
			if e.By() == audit.Gateway && e.ResponseStatus.Code == http.StatusForbidden {
				n++
			}
		})
		if err == nil && n <= x.forbidden {
			err = fmt.Errorf("the audit log has %d refused requests of the gateway, %d before", n, x.forbidden)
		}
		return err
	})
	more := n - x.forbidden
	x.forbidden = n
	return fmt.Sprintf("audit log: %d × 403 to the gateway's account", more)
}

// forged: the manager finds that the agent has not signed what the gateway has written.
func (x *underRogue) forged(t *testing.T) verdict {
	for name, m := range map[string]rogue.Misdeed{"forged": rogue.EndWithOwnProof, "forged-old": rogue.EndWithOldDate, "forged-other": rogue.EndWithOtherProof} {
		for _, a := range x.try(t, m, rogue.Ask{Action: name, OtherAction: "before"}) {
			if a.Refused != "" {
				t.Errorf("%s: %s", a.What, a.Refused) // it is the manager that refuses it, afterwards
			}
		}
		if note := x.warned(t, name, "BadProof"); !strings.Contains(note, "do not believe this result") || !strings.Contains(note, "gw-rogue-") {
			t.Errorf("%s: %s", name, note)
		}
		a := get[v1alpha1.EndpointAction](t, x.tenant, name)
		if c := meta.FindStatusCondition(a.Status.Conditions, v1alpha1.ConditionResultVerified); c == nil || c.Status != "False" {
			t.Errorf("%s: no condition says that it is not verified: %+v", name, a.Status.Conditions)
		}
		if !meta.IsStatusConditionTrue(a.Status.Conditions, v1alpha1.ConditionStalled) || !strings.HasPrefix(a.Status.Message, "do not believe this result") {
			t.Errorf("%s: people read %q, and pipelines %+v", name, a.Status.Message, a.Status.Conditions)
		}
		x.judgedAlike(t, name)
		t.Logf("\n%s", x.Kubectl(t, "get", "epa", name))
	}
	return verdict{"manager", "kubectl get epa: do not believe this result; Event BadProof names the gateway; ResultVerified False, Stalled"}
}

// forgedChild: nothing counts a result that the agent has not signed.
func (x *underRogue) forgedChild(t *testing.T) verdict {
	x.Apply(t, "apiVersion: rollcall.dev/v1alpha1\nkind: EndpointAction\nmetadata: {name: everybody}\n"+
		"spec: {type: PerformHeartbeat, selector: {matchLabels: {group: laptops}}}\n")
	var child string
	harness.Eventually(t, soon, func() error {
		for _, a := range list[v1alpha1.EndpointActionList](t, x.tenant).Items {
			if strings.HasPrefix(a.Name, "everybody-") && a.Status.Admission != nil {
				child = a.Name
				return nil
			}
		}
		return errNot{"a child", "admitted"}
	})
	x.try(t, rogue.EndWithOwnProof, rogue.Ask{Action: child})
	parent := x.endsAs(t, "everybody", v1alpha1.ActionFailed, "ChildrenFailed")
	if c := parent.Status.Children; c == nil || c.Succeeded != 0 || c.Failed != 1 || !strings.Contains(parent.Status.Message, "BadProof") {
		t.Errorf("the parent counts %+v: %s", c, parent.Status.Message)
	}
	return verdict{"manager", "kubectl get epa: " + parent.Status.Message}
}

// takenBack is what it can do: people have cancelled an action that no honest gateway has sent, and the agent has not heard of that.
func (x *underRogue) takenBack(t *testing.T) verdict {
	x.Kubectl(t, "patch", "epa", "taken-back", "--type=merge", "-p", `{"spec":{"cancel":true}}`)
	x.endsAs(t, "taken-back", v1alpha1.ActionCancelled, "CancelledByUser")
	x.try(t, rogue.Replay, rogue.Ask{Endpoint: x.laptop.name, Action: "taken-back"})
	v := x.reportedLate(t, "taken-back", v1alpha1.ActionCancelled, "Succeeded (Done)")
	return verdict{"nobody", v.shown}
}

// reenrolled: what was signed for a machine's earlier identity is not its own any more.
func (x *underRogue) reenrolled(t *testing.T) verdict {
	x.laptop.Stop(5 * time.Second)
	front := *x.system
	front.GatewayAddress = x.via.Addr().String()
	x.laptop.realAgent = front.startAgent(x.outer, "reimaged", x.tokenText(t, "again", "{expiresAfterHours: 0, endpointName: "+x.laptop.name+"}"), sessionAgent...)
	x.endsAs(t, "mine", v1alpha1.ActionCancelled, "EndpointReplaced")
	channelIs(t, x.tenant, x.laptop.realAgent, x.laptop.name, v1alpha1.ChannelWebSocket, "", "connected")
	return x.refusedByLaptop(t, "action: OtherIdentity", 1, rogue.Replay, rogue.Ask{Action: "mine"})
}

// afterwards the machine finds an honest gateway, and everything is as if nothing had been.
func (x *underRogue) afterwards(t *testing.T) {
	x.via.move(x.GatewayAddress)
	x.terminates(t, "after")
}
