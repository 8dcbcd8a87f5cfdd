package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/test/harness"
	"github.com/rollcall-dev/rollcall/test/health"
)

const (
	// actionPolicy beats often, and allows for more silence than any trouble here takes.
	actionPolicy = `{apiVersion: rollcall.dev/v1alpha1, kind: EndpointPolicy, metadata: {name: fast}, spec: {heartbeat: {intervalSeconds: 2, missed: 15}}}`
	// soon is how long a person waits for what needs no more than a heartbeat, on a loaded machine.
	soon = 30 * time.Second
)

// act creates an action as the person; spec is that of the kind, in YAML's flow style, but for the endpoint.
func (n *tenant) act(t testing.TB, name, endpoint, kind, parameters string) {
	t.Helper()
	if parameters != "" {
		parameters = ", " + parameters
	}
	n.Apply(t, fmt.Sprintf("apiVersion: rollcall.dev/v1alpha1\nkind: EndpointAction\nmetadata: {name: %s}\nspec: {type: %s, endpointName: %s%s}\n", name, kind, endpoint, parameters))
}

// terminate is act for a victim.
func (n *tenant) terminate(t testing.TB, name, endpoint string, v *victim, more string) {
	t.Helper()
	n.act(t, name, endpoint, "TerminateProcess", "terminateProcess: {executable: "+v.path+more+"}")
}

// ends waits for the end of an action as people are taught to, and returns it.
func (n *tenant) ends(t testing.TB, name string, patience time.Duration) v1alpha1.EndpointAction {
	t.Helper()
	if out, err := n.Try(t, "", "wait", "epa/"+name, "--for=jsonpath={.status.finishTime}", "--timeout="+patience.String()); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, n.Kubectl(t, "describe", "epa", name))
	}
	return get[v1alpha1.EndpointAction](t, n, name)
}

// endsAs is ends, in a phase and for a reason.
func (n *tenant) endsAs(t testing.TB, name string, phase v1alpha1.ActionPhase, reason string) v1alpha1.EndpointAction {
	t.Helper()
	a := n.ends(t, name, soon)
	if got := reasonOf(a); a.Status.Phase != phase || got != reason {
		t.Errorf("%s ended %s, %s (%s), want %s, %s", name, a.Status.Phase, got, a.Status.Message, phase, reason)
	}
	t.Logf("\n%s", n.Kubectl(t, "get", "epa", name))
	n.judgedAlike(t, name)
	return a
}

// judgedAlike asks kstatus, Flux and Argo CD.
func (n *tenant) judgedAlike(t testing.TB, name string) {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON([]byte(n.Kubectl(t, "get", "epa", name, "-o", "json"))); err != nil {
		t.Fatal(err)
	}
	v, err := health.Of(t.Context(), harness.Root(), o)
	if err != nil || !v.Agree() || v.KStatus == status.InProgressStatus {
		t.Errorf("of %s it is said %+v, %v", name, v, err)
	}
	t.Logf("kstatus, Flux and Argo CD: %s", v.KStatus)
}

// channelOf is the one by which an action was sent first; empty if it was not.
func channelOf(a v1alpha1.EndpointAction) v1alpha1.Channel {
	if a.Status.Delivery == nil {
		return ""
	}
	return a.Status.Delivery.Channel
}

// reasonOf is that of the condition that tells how an action stands.
func reasonOf(a v1alpha1.EndpointAction) string {
	for _, kind := range []string{v1alpha1.ConditionComplete, v1alpha1.ConditionFailed, v1alpha1.ConditionReconciling} {
		for _, c := range a.Status.Conditions {
			if c.Type == kind && c.Status == "True" {
				return c.Reason
			}
		}
	}
	return ""
}

// waitsFor waits until people see an open action wait for a reason.
func (n *tenant) waitsFor(t testing.TB, name string, phase v1alpha1.ActionPhase, reason string) {
	t.Helper()
	harness.Eventually(t, soon, func() error {
		a := get[v1alpha1.EndpointAction](t, n, name)
		if a.Status.Phase != phase || reasonOf(a) != reason {
			return fmt.Errorf("%s is %s, %s (%s), want %s, %s", name, a.Status.Phase, reasonOf(a), a.Status.Message, phase, reason)
		}
		return nil
	})
	t.Logf("\n%s", n.Kubectl(t, "get", "epa", name))
}

// phases are what a watch shows of an action's phase, one after the other.
type phases struct {
	mu  sync.Mutex
	all []string
}

// watchPhases returns once the watch has shown some action that is there already.
func watchPhases(t testing.TB, n *tenant, name string) *phases {
	t.Helper()
	p := &phases{}
	began := make(chan struct{})
	var once sync.Once
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		follow(ctx, n, "epa", "{.metadata.name},{.status.phase}", func(line string) {
			once.Do(func() { close(began) })
			p.mu.Lock()
			defer p.mu.Unlock()
			if phase, ours := strings.CutPrefix(line, name+","); ours && (len(p.all) == 0 || p.all[len(p.all)-1] != phase) {
				p.all = append(p.all, phase)
			}
		})
	})
	t.Cleanup(func() { cancel(); group.Wait() })
	select {
	case <-began:
	case <-time.After(soon):
		t.Fatal("the watch shows nothing")
	}
	return p
}

func (p *phases) are(t testing.TB, want ...string) {
	t.Helper()
	harness.Eventually(t, soon, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if got := strings.Join(p.all, " "); got != strings.Join(want, " ") {
			return fmt.Errorf("the watch has shown %s, want %s", got, strings.Join(want, " "))
		}
		return nil
	})
}

// TestActions has a real agent do what people ask, by whichever channel there is, once.
func TestActions(t *testing.T) {
	t.Parallel()
	s := startSystem(t, steadyManager, sessionGateway)
	n := s.tenant(t, "laptops")
	text := n.tokenText(t, "laptops", "{expiresAfterHours: 0}")
	n.Apply(t, actionPolicy)
	agents := t.TempDir()
	r, address := startRelay(t, s, filepath.Join(agents, "laptop"))
	a := s.startAgentIn(t, agents, "rollcall-agent", "laptop", text, append([]string{"--server=https://" + address}, sessionAgent...)...)
	name := firstEndpoint(t, n)
	channelIs(t, n, a, name, v1alpha1.ChannelWebSocket, "", "connected")
	v := startVictim(t)

	t.Run("a heartbeat", func(t *testing.T) {
		n.act(t, "hello", name, "PerformHeartbeat", "")
		n.endsAs(t, "hello", v1alpha1.ActionSucceeded, "Done")
	})
	t.Run("each phase is seen", func(t *testing.T) {
		stubborn := startVictim(t, "--stubborn")
		p := watchPhases(t, n, "stubborn")
		n.terminate(t, "stubborn", name, stubborn, ", gracePeriodSeconds: 8")
		done := n.endsAs(t, "stubborn", v1alpha1.ActionSucceeded, "Done")
		p.are(t, "Pending", "Sent", "Running", "Succeeded")
		if got := stubborn.terms(t); got != 1 {
			t.Errorf("the victim was asked to end %d times", got)
		}
		if d := done.Status.Delivery; d == nil || d.AcknowledgedTime == nil || d.StartedTime == nil || d.Channel != v1alpha1.ChannelWebSocket {
			t.Errorf("its way is told as %+v", d)
		}
	})
	for _, mode := range []string{"block", "cut=1"} {
		t.Run("websocket: "+mode, func(t *testing.T) {
			before, action := v.terms(t), "relay-"+strings.Trim(mode, "=1")
			switchRelay(t, r, mode)
			if mode == "block" {
				channelIs(t, n, a, name, v1alpha1.ChannelHeartbeat, "no websocket: the upgrade was answered with 403", "disconnected")
			}
			n.terminate(t, action, name, v, "")
			done := n.endsAs(t, action, v1alpha1.ActionSucceeded, "Done")
			if mode == "block" && channelOf(done) != v1alpha1.ChannelHeartbeat {
				t.Errorf("it went by %q", channelOf(done))
			}
			once(t, n, a, v, before)
			switchRelay(t, r, "pass")
			channelIs(t, n, a, name, v1alpha1.ChannelWebSocket, "", "connected")
		})
	}
	t.Run("heartbeats only, by the policy", func(t *testing.T) {
		before := v.terms(t)
		n.Kubectl(t, "patch", "epp", "fast", "--type=merge", "-p", `{"spec":{"commandChannel":{"mode":"HeartbeatOnly"}}}`)
		channelIs(t, n, a, name, v1alpha1.ChannelHeartbeat, "", "disabled")
		n.terminate(t, "heartbeat-only", name, v, "")
		n.endsAs(t, "heartbeat-only", v1alpha1.ActionSucceeded, "Done")
		once(t, n, a, v, before)
		n.Kubectl(t, "patch", "epp", "fast", "--type=merge", "-p", `{"spec":{"commandChannel":{"mode":"WebSocket"}}}`)
		channelIs(t, n, a, name, v1alpha1.ChannelWebSocket, "", "connected")
	})
	t.Run("the agent is killed while it acts", func(t *testing.T) {
		stubborn := startVictim(t, "--stubborn")
		n.terminate(t, "interrupted", name, stubborn, ", gracePeriodSeconds: 60")
		n.waitsFor(t, "interrupted", v1alpha1.ActionRunning, "Running")
		a.Kill()
		a.start(t)
		n.endsAs(t, "interrupted", v1alpha1.ActionUnknown, "Interrupted")
		if got := stubborn.terms(t); got != 1 {
			t.Errorf("the victim was asked to end %d times", got)
		}
	})
	t.Run("the gateway is killed while it acts", func(t *testing.T) {
		stubborn := startVictim(t, "--stubborn")
		n.terminate(t, "gateway-killed", name, stubborn, ", gracePeriodSeconds: 6")
		n.waitsFor(t, "gateway-killed", v1alpha1.ActionRunning, "Running")
		s.gateway.Kill()
		s.startGateway(t)
		n.endsAs(t, "gateway-killed", v1alpha1.ActionSucceeded, "Done")
		if got := stubborn.terms(t); got != 1 {
			t.Errorf("the victim was asked to end %d times", got)
		}
	})
	t.Run("cancelled while it runs", func(t *testing.T) {
		stubborn := startVictim(t, "--stubborn")
		n.terminate(t, "cancelled", name, stubborn, ", gracePeriodSeconds: 60")
		n.waitsFor(t, "cancelled", v1alpha1.ActionRunning, "Running")
		n.Kubectl(t, "patch", "epa", "cancelled", "--type=merge", "-p", `{"spec":{"cancel":true}}`)
		done := n.ends(t, "cancelled", soon)
		t.Logf("\n%s", n.Kubectl(t, "get", "epa", "cancelled"))
		if done.Status.Phase == v1alpha1.ActionSucceeded || stubborn.terms(t) != 1 {
			t.Errorf("it ended %s, after %d TERMs", done.Status.Phase, stubborn.terms(t))
		}
	})
}

// once waits until the agent was heard twice more, and looks whether the victim got one TERM since.
func once(t testing.TB, n *tenant, a *realAgent, v *victim, before int) {
	t.Helper()
	select {
	case <-v.pids: // it was started again, under the same path
	case <-time.After(soon):
		t.Fatal("the victim was not ended")
	}
	beat := a.accepted(t)
	harness.Eventually(t, soon, func() error {
		if now := a.accepted(t); now < beat+2 {
			return fmt.Errorf("%d heartbeats were accepted, then %d", beat, now)
		}
		return nil
	})
	if got := v.terms(t) - before; got != 1 {
		t.Errorf("the victim was asked to end %d times", got)
	}
}

// TestActionsOnTwoGateways: a session on the other gateway than the one that a person's request reaches first, and one that moves meanwhile.
func TestActionsOnTwoGateways(t *testing.T) {
	t.Parallel()
	s := startSystem(t, steadyManager, sessionGateway)
	n := s.tenant(t, "laptops")
	text := n.tokenText(t, "laptops", "{expiresAfterHours: 0}")
	n.Apply(t, actionPolicy)
	other := s.launch(t, "gateway-2")
	b := startBalancer(t, other.address)
	a := s.startAgent(t, "laptop", text, append([]string{"--server=https://" + b.Addr().String()}, sessionAgent...)...)
	name := firstEndpoint(t, n)
	channelIs(t, n, a, name, v1alpha1.ChannelWebSocket, "", "connected")

	n.act(t, "hello", name, "PerformHeartbeat", "")
	done := n.endsAs(t, "hello", v1alpha1.ActionSucceeded, "Done")
	if d := done.Status.Delivery; d == nil || string(d.Gateway) != gatewayName(t, other.Process) {
		t.Errorf("it was sent as %+v, the session was at %s", d, gatewayName(t, other.Process))
	}
	stubborn := startVictim(t, "--stubborn")
	n.terminate(t, "moved", name, stubborn, ", gracePeriodSeconds: 6")
	n.waitsFor(t, "moved", v1alpha1.ActionRunning, "Running")
	b.move(s.GatewayAddress)
	n.endsAs(t, "moved", v1alpha1.ActionSucceeded, "Done")
	if got := stubborn.terms(t); got != 1 {
		t.Errorf("the victim was asked to end %d times", got)
	}
}

// TestEndsOfActions: what cannot be done ends, or waits, with the right word.
func TestEndsOfActions(t *testing.T) {
	t.Parallel()
	s := calmSystem(t)
	n := s.tenant(t, "laptops", "again")
	text := n.tokenText(t, "laptops", "{expiresAfterHours: 0}")
	n.Apply(t, actionPolicy)
	a, name := s.laptop(t, n, text)
	whole := t

	t.Run("nobody of that name", func(t *testing.T) {
		n.act(t, "nobody", "no-such-endpoint", "PerformHeartbeat", "startingDeadlineSeconds: 5")
		n.waitsFor(t, "nobody", v1alpha1.ActionPending, "EndpointNotFound")
		n.endsAs(t, "nobody", v1alpha1.ActionExpired, "DeadlineExceeded")
	})
	t.Run("a type that the agent cannot do", func(t *testing.T) {
		n.act(t, "restore", name, "RestoreFile", "restoreFile: {quarantineID: q1}")
		n.endsAs(t, "restore", v1alpha1.ActionUnsupported, "AgentTooOld")
	})
	t.Run("disabled by the policy", func(t *testing.T) {
		n.Kubectl(t, "patch", "epp", "fast", "--type=merge", "-p", `{"spec":{"actions":{"disabled":["PerformHeartbeat"]}}}`)
		n.act(t, "disabled", name, "PerformHeartbeat", "")
		n.endsAs(t, "disabled", v1alpha1.ActionUnsupported, "DisabledByPolicy")
		n.Kubectl(t, "patch", "epp", "fast", "--type=json", "-p", `[{"op":"remove","path":"/spec/actions"}]`)
	})
	t.Run("suspended", func(t *testing.T) {
		n.setLifecycle(t, name, "Suspended")
		n.act(t, "suspended", name, "PerformHeartbeat", "")
		n.waitsFor(t, "suspended", v1alpha1.ActionPending, "EndpointSuspended")
		n.setLifecycle(t, name, "Active")
		n.endsAs(t, "suspended", v1alpha1.ActionSucceeded, "Done")
	})
	t.Run("asleep: cancelled, expired", func(t *testing.T) {
		channelIs(t, n, a, name, v1alpha1.ChannelWebSocket, "", "connected")
		pause(t, a, syscall.SIGSTOP)
		harness.Eventually(t, withinHeartbeat, func() error { // the gateway finds out by the silence
			if c := connection(t, n, name); c.Channel != v1alpha1.ChannelNone {
				return fmt.Errorf("the channel is %s", c.Channel)
			}
			return nil
		})
		n.act(t, "taken-back", name, "PerformHeartbeat", "")
		n.act(t, "too-late", name, "PerformHeartbeat", "startingDeadlineSeconds: 6")
		n.waitsFor(t, "taken-back", v1alpha1.ActionPending, "WaitingForHeartbeat")
		n.Kubectl(t, "patch", "epa", "taken-back", "--type=merge", "-p", `{"spec":{"cancel":true}}`)
		n.endsAs(t, "taken-back", v1alpha1.ActionCancelled, "CancelledByUser")
		n.endsAs(t, "too-late", v1alpha1.ActionExpired, "DeadlineExceeded")
		pause(t, a, syscall.SIGCONT)
	})
	t.Run("enrolled again", func(t *testing.T) {
		a.Stop(5 * time.Second)
		n.act(t, "predecessors", name, "PerformHeartbeat", "")
		n.waitsFor(t, "predecessors", v1alpha1.ActionPending, "WaitingForHeartbeat")
		a = s.startAgent(whole, "reimaged", n.tokenText(t, "again", "{expiresAfterHours: 0, endpointName: "+name+"}"), sessionAgent...)
		n.endsAs(t, "predecessors", v1alpha1.ActionCancelled, "EndpointReplaced")
		channelIs(t, n, a, name, v1alpha1.ChannelWebSocket, "", "connected")
	})
	t.Run("deleted", func(t *testing.T) {
		stubborn := startVictim(t, "--stubborn")
		n.terminate(t, "deleted", name, stubborn, ", gracePeriodSeconds: 60")
		n.waitsFor(t, "deleted", v1alpha1.ActionRunning, "Running")
		n.Kubectl(t, "delete", "fep", name)
		n.endsAs(t, "deleted", v1alpha1.ActionUnknown, "EndpointDeleted")
	})
	t.Run("an old agent", func(t *testing.T) {
		s.startProgram(t, harness.OldAgent, "old", text, sessionAgent...)
		old := firstEndpoint(t, n)
		n.act(t, "old-hello", old, "PerformHeartbeat", "")
		done := n.endsAs(t, "old-hello", v1alpha1.ActionSucceeded, "Done")
		if channelOf(done) != v1alpha1.ChannelHeartbeat {
			t.Errorf("it went by %q", channelOf(done))
		}
		s.api.Kubectl(t, "-n", n.Namespace, "create", "role", "terminals", "--verb=terminal", "--resource=endpoints.rollcall.dev")
		s.api.Kubectl(t, "-n", n.Namespace, "create", "rolebinding", "terminals", "--role=terminals", "--serviceaccount="+n.Namespace+":"+n.Name)
		n.act(t, "old-terminal", old, "LiveTerminal", "")
		n.endsAs(t, "old-terminal", v1alpha1.ActionUnsupported, "AgentTooOld")
	})
}

// TestActionOnMany: a selector is a snapshot of who matches, so many at a time, and tells how it went.
func TestActionOnMany(t *testing.T) {
	t.Parallel()
	s := calmSystem(t)
	n := s.tenant(t, "fleet")
	n.Apply(t, actionPolicy)
	startFleetsim(t, s, "fleet", fleetToken(t, n), 30, "--websocket")
	allConnected(t, n, 30)
	n.Apply(t, "apiVersion: rollcall.dev/v1alpha1\nkind: EndpointAction\nmetadata: {name: all}\n"+
		"spec: {type: PerformHeartbeat, selector: {matchExpressions: [{key: reported.rollcall.dev/os, operator: Exists}]}, maxParallel: 7}\n")
	done := n.endsAs(t, "all", v1alpha1.ActionSucceeded, "Done")
	if c := done.Status.Children; c == nil || c.Total != 30 || c.Succeeded != 30 || done.Status.Progress != "30/30" {
		t.Errorf("its children are told as %+v, %s", c, done.Status.Progress)
	}
}
