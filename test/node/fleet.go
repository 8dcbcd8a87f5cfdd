//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
)

var (
	everything = metav1.ListOptions{}
	get        = metav1.GetOptions{}
)

// fleet is the agents, and what people see of them.
type fleet struct {
	admin     kubernetes.Interface // for what is not a tenant's
	person    client.WithWatch
	bin, logs string
	size      int

	mu    sync.Mutex
	shown []string // what nobody should have seen
}

// start runs the agents with a token.
func (f *fleet) start(_ context.Context, dir, server string, token []byte) error {
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, token, 0o600); err != nil {
		return err
	}
	for program, args := range map[string][]string{
		"fleetsim":       {"--count=" + fmt.Sprint(f.size-1), "--state-dir=" + filepath.Join(dir, "fleet")},
		"rollcall-agent": {"run", "--state-dir=" + filepath.Join(dir, "agent")},
	} {
		if err := os.MkdirAll(filepath.Join(dir, "agent"), 0o700); err != nil {
			return err
		}
		if _, err := local.Start(program, filepath.Join(f.logs, program+".log"), filepath.Join(f.bin, program), append(args, "--server="+server, "--token-file="+file)...); err != nil {
			return err
		}
	}
	return nil
}

// back is the part of the agents that have a websocket again before a step is over. The others wait, on purpose, for longer after each failure;
// their heartbeats come over HTTPS meanwhile.
const back = 0.95

// online waits until everybody is, and nearly everybody with a websocket to a gateway that lives.
func (f *fleet) online(ctx context.Context) error {
	return local.Poll(ctx, patience, time.Second, func() error {
		live, err := f.gateways(ctx)
		if err != nil {
			return err
		}
		list := &v1alpha1.EndpointList{}
		if err := f.person.List(ctx, list, client.InNamespace(tenant)); err != nil {
			return err
		}
		online, connected, others := 0, 0, map[string]int{}
		for _, e := range list.Items {
			c := e.Status.Connection
			if e.Status.Summary == "Online" {
				online++
			} else {
				others[e.Status.Summary]++
			}
			if c != nil && c.Channel == v1alpha1.ChannelWebSocket && live[string(c.Gateway)] {
				connected++
			}
		}
		if online != f.size || float64(connected) < back*float64(f.size) {
			return fmt.Errorf("of %d endpoints %d are online, %d with a websocket to a gateway that lives; %v", f.size, online, connected, others)
		}
		return nil
	})
}

// busiest is the name of the gateway that most endpoints have a websocket to.
func (f *fleet) busiest(ctx context.Context) (name string, err error) {
	list := &v1alpha1.EndpointList{}
	if err := f.person.List(ctx, list, client.InNamespace(tenant)); err != nil {
		return "", err
	}
	agents := map[string]int{}
	for _, e := range list.Items {
		if c := e.Status.Connection; c != nil && c.Channel == v1alpha1.ChannelWebSocket {
			agents[string(c.Gateway)]++
			if agents[string(c.Gateway)] > agents[name] {
				name = string(c.Gateway)
			}
		}
	}
	return name, nil
}

// gateways are all that have a Lease, by name: whether it is fresh.
func (f *fleet) gateways(ctx context.Context) (map[string]bool, error) {
	leases, err := f.admin.CoordinationV1().Leases(system).List(ctx, everything)
	if err != nil {
		return nil, err
	}
	live := map[string]bool{}
	for _, l := range leases.Items {
		if s := l.Spec; strings.HasPrefix(l.Name, "gw-") && s.RenewTime != nil && s.LeaseDurationSeconds != nil {
			live[l.Name] = time.Since(s.RenewTime.Time) < time.Duration(*s.LeaseDurationSeconds)*time.Second
		}
	}
	return live, nil
}

// watch notes whoever is shown as anything but online, until ctx ends.
func (f *fleet) watch(ctx context.Context) {
	go func() {
		for ctx.Err() == nil {
			w, err := f.person.Watch(ctx, &v1alpha1.EndpointList{}, client.InNamespace(tenant))
			if err != nil {
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
				continue
			}
			for event := range w.ResultChan() {
				e, ok := event.Object.(*v1alpha1.Endpoint)
				if ok && slices.Contains([]string{"Offline", "Unknown", "Conflict", "Failing"}, e.Status.Summary) {
					f.note(fmt.Sprintf("%s %s is shown %s: %s", time.Now().Format(time.TimeOnly), e.Name, e.Status.Summary, e.Status.Message))
				}
			}
		}
	}()
}

func (f *fleet) note(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shown = append(f.shown, what)
}

// verdict is what was seen that should not have been.
func (f *fleet) verdict() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.shown) == 0 {
		return nil
	}
	return fmt.Errorf("%d times somebody was shown who is not well, first: %s", len(f.shown), f.shown[0])
}

// asking creates an action every few moments, for one endpoint after the other, until it is told to stop; then it waits for their ends.
type asking struct {
	fleet *fleet
	name  string
	stop  context.CancelFunc
	done  chan error
	count int
}

// pace of actions.
const pace = 100 * time.Millisecond

// ask begins.
func (f *fleet) ask(ctx context.Context, name string) (*asking, error) {
	list := &v1alpha1.EndpointList{}
	if err := f.person.List(ctx, list, client.InNamespace(tenant)); err != nil {
		return nil, err
	}
	asked, stop := context.WithCancel(ctx)
	a := &asking{fleet: f, name: name, stop: stop, done: make(chan error, 1)}
	go func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for {
			select {
			case <-asked.Done():
				a.done <- nil
				return
			case <-tick.C:
			}
			err := f.person.Create(ctx, &v1alpha1.EndpointAction{
				ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: fmt.Sprintf("%s-%04d", name, a.count), Labels: map[string]string{"trial": name}},
				Spec:       v1alpha1.EndpointActionSpec{Type: v1alpha1.PerformHeartbeat, EndpointName: v1alpha1.LocalName(list.Items[a.count%len(list.Items)].Name)},
			})
			if err != nil {
				a.done <- err
				return
			}
			a.count++
		}
	}()
	return a, nil
}

// fates stops it and waits until every action has ended as it should, and says how.
func (a *asking) fates(ctx context.Context) (string, error) {
	a.stop()
	if err := <-a.done; err != nil {
		return "", err
	}
	channels := map[v1alpha1.Channel]int{}
	var slowest time.Duration
	err := local.Poll(ctx, patience, time.Second, func() error {
		list := &v1alpha1.EndpointActionList{}
		if err := a.fleet.person.List(ctx, list, client.InNamespace(tenant), client.MatchingLabels{"trial": a.name}); err != nil {
			return err
		}
		clear(channels)
		slowest = 0
		var open error
		for _, action := range list.Items {
			s := action.Status
			switch {
			case s.FinishTime == nil:
				open = errors.Join(open, fmt.Errorf("%s is %s: %s", action.Name, s.Phase, s.Message))
			case s.Phase != v1alpha1.ActionSucceeded:
				return fmt.Errorf("%s ended %s: %s", action.Name, s.Phase, s.Message)
			default:
				channels[s.Delivery.Channel]++
				slowest = max(slowest, s.FinishTime.Sub(action.CreationTimestamp.Time))
			}
		}
		if open == nil && len(list.Items) != a.count {
			return fmt.Errorf("%d actions of %d", len(list.Items), a.count)
		}
		return open
	})
	return fmt.Sprintf("%d actions Succeeded (%d by websocket, %d by heartbeat), the slowest after %s",
		a.count, channels[v1alpha1.ChannelWebSocket], channels[v1alpha1.ChannelHeartbeat], slowest.Round(time.Second)), err
}
