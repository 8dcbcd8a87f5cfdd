package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/faults"
)

// answerWait is how long the answer to a heartbeat waits for what is written of actions.
const answerWait = 500 * time.Millisecond

var gatewayArgs = []string{
	"--lease-duration=3s", "--lease-renew=1s", "--enroll-rate-source=1000", "--enroll-rate-token=1000", "--enroll-rate-total=1000", "--renew-spacing=10ms",
	"--ping-interval=500ms", "--session-slack=2s", "--session-sweep=100ms", "--session-down-after=2s", "--drain-spread=1s", "--late-packets=2s",
	"--heartbeat-spacing=100ms", "--action-repeat=3s", "--action-running-after=200ms", "--action-wait=" + answerWait.String(),
}

// labelChannel of an endpoint says by which channel it is to be heard.
const labelChannel = "faults.example/channel"

// channels are the columns of the matrix.
var channels = []v1alpha1.Channel{v1alpha1.ChannelWebSocket, v1alpha1.ChannelHeartbeat}

// lane is a gateway with two machines on each channel and a person in a namespace of their own. One run at a time uses it.
type lane struct {
	*plane
	name, dir    string
	system       local.System // of the gateway
	gateway      *local.Process
	gatewayFault string
	person       client.Client
	machines     map[v1alpha1.Channel][]*machine
	past         []past
}

// startLane starts one, enrolled and heard.
func startLane(ctx context.Context, p *plane, dir, name string) (*lane, error) {
	l := &lane{plane: p, name: name, dir: filepath.Join(dir, name), machines: map[v1alpha1.Channel][]*machine{}}
	l.gatewayFault = filepath.Join(l.dir, "gateway.fault")
	l.system = p.system
	l.system.Dir, l.system.LogDir = filepath.Join(l.dir, "system"), filepath.Join(l.dir, "log")
	l.system.GatewayArgs = append([]string{"--fault-file=" + l.gatewayFault, "--token-file=" + filepath.Join(p.system.Dir, "gateway.token")}, gatewayArgs...)
	var err error
	if l.system.GatewayAddress, err = local.FreeAddress(); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{l.startGateway, l.people, l.enrol} {
		if err := step(ctx); err != nil {
			return l, fmt.Errorf("start %s: %w", name, err)
		}
	}
	return l, nil
}

func (l *lane) startGateway(ctx context.Context) (err error) {
	l.gateway, err = l.system.StartGateway(ctx)
	return err
}

// people makes the namespace and the person.
func (l *lane) people(ctx context.Context) error {
	p, err := local.CreatePerson(ctx, l.api.Admin, l.name, "person", l.dir)
	if err != nil {
		return err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", p.Kubeconfig)
	if err != nil {
		return err
	}
	l.person, err = newClient(cfg)
	return err
}

// enrol makes the policies and enrols the machines.
func (l *lane) enrol(ctx context.Context) error {
	for _, channel := range channels {
		labels := map[string]v1alpha1.LabelValue{labelChannel: v1alpha1.LabelValue(channel)}
		mode := v1alpha1.CommandChannelWebSocket
		if channel == v1alpha1.ChannelHeartbeat {
			mode = v1alpha1.CommandChannelHeartbeatOnly
		}
		policy := &v1alpha1.EndpointPolicy{ObjectMeta: l.meta(lower(channel)), Spec: v1alpha1.EndpointPolicySpec{
			Selector:       &v1alpha1.EndpointSelector{MatchLabels: labels},
			Heartbeat:      &v1alpha1.HeartbeatPolicy{IntervalSeconds: ptr.To[int32](1), Missed: ptr.To[int32](30)},
			CommandChannel: &v1alpha1.CommandChannelPolicy{Mode: mode},
		}}
		token := &v1alpha1.EnrollmentToken{ObjectMeta: l.meta(lower(channel)), Spec: v1alpha1.EnrollmentTokenSpec{Labels: labels}}
		if err := errors.Join(l.person.Create(ctx, policy), l.person.Create(ctx, token)); err != nil {
			return err
		}
		text, err := l.tokenText(ctx, token.Name)
		if err != nil {
			return err
		}
		for n := range 2 {
			m, err := newMachine(l.system.Bin, filepath.Join(l.dir, fmt.Sprintf("%s-%d", lower(channel), n)), l.system.GatewayAddress, text, channel)
			if err != nil {
				return err
			}
			l.machines[channel] = append(l.machines[channel], m)
		}
	}
	for _, m := range l.all() {
		if err := m.start(); err != nil {
			return err
		}
	}
	for _, m := range l.all() {
		if err := l.identify(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func (l *lane) tokenText(ctx context.Context, name string) (text string, err error) {
	err = until(ctx, patience, "the token is made", func() (bool, error) {
		secret := &corev1.Secret{}
		err := l.admin.Get(ctx, client.ObjectKey{Namespace: l.name, Name: name + "-token"}, secret)
		text = string(secret.Data["token"])
		return text != "", err
	})
	return text, err
}

// identify waits until a machine has enrolled and its endpoint tells what it can do, and notes the endpoint's name.
func (l *lane) identify(ctx context.Context, m *machine) error {
	is, err := m.ready(ctx)
	if err != nil {
		return err
	}
	return until(ctx, patience, "the endpoint tells what the machine can do", func() (bool, error) {
		var all v1alpha1.EndpointList
		if err := l.person.List(ctx, &all, client.InNamespace(l.name)); err != nil {
			return false, err
		}
		for _, e := range all.Items {
			if e.Status.Identity != nil && e.Status.Identity.ID == is.Endpoint.Identity && e.Status.Agent != nil {
				m.endpoint = e.Name
			}
		}
		return m.endpoint != "", nil
	})
}

func (l *lane) all() (all []*machine) {
	for _, channel := range channels {
		all = append(all, l.machines[channel]...)
	}
	return all
}

func (l *lane) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: l.name, Name: name}
}

// ready has everything run that a run needs, whatever the one before has left.
func (l *lane) ready(ctx context.Context, channel v1alpha1.Channel) error {
	for _, file := range append([]string{l.gatewayFault}, l.machines[channel][0].fault, l.machines[channel][1].fault) {
		if err := errors.Join(faults.Disarm(file), faults.Release(file)); err != nil {
			return err
		}
	}
	select {
	case <-l.gateway.Done():
		if err := l.startGateway(ctx); err != nil {
			return err
		}
	default:
	}
	for _, m := range l.machines[channel] {
		if !m.up() {
			if err := m.start(); err != nil {
				return err
			}
		}
		if _, err := m.ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// stop ends everything of the lane.
func (l *lane) stop() {
	for _, m := range l.all() {
		if m.up() {
			m.Kill()
		}
	}
	if l.gateway != nil {
		l.gateway.Kill()
	}
	for _, p := range l.past {
		_, _ = p.victim.stop() // its run is over
	}
}

// past is a run whose victim lives on for a while: what is done again later shows in it.
type past struct {
	result *result
	victim *victim
	terms  int
}

// keptVictims is how many runs a victim outlives its own.
const keptVictims = 3

// keep keeps a victim, and lets go of the one that has been kept for long enough.
func (l *lane) keep(p past) error {
	l.past = append(l.past, p)
	if len(l.past) <= keptVictims {
		return nil
	}
	return l.letGo()
}

// letGo ends the oldest victim that is kept.
func (l *lane) letGo() error {
	p := l.past[0]
	l.past = l.past[1:]
	n, err := p.victim.stop()
	if n > p.terms {
		p.result.wrong = append(p.result.wrong, fmt.Sprintf("it was done again later: %d times in all", n))
	}
	return err
}
