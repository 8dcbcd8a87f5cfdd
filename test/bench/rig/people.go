package rig

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
)

// Online waits until the person sees n endpoints online.
func (s *System) Online(ctx context.Context, n int) error {
	return Poll(ctx, 2*time.Minute, func() error {
		out, err := local.Kubectl(ctx, s.API.KubectlPath, s.Person.Kubeconfig, "", "get", "fep", "--field-selector=status.summary=Online", "-o", "name")
		if have := strings.Count(out, "\n"); err == nil && have < n {
			err = fmt.Errorf("%d of %d endpoints are online", have, n)
		}
		return err
	})
}

// Quiet waits until nobody has written to an Endpoint for a while.
func (s *System) Quiet(ctx context.Context, while time.Duration) error {
	endpoints, err := s.endpoints()
	if err != nil {
		return err
	}
	now, err := endpoints.List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	w, err := endpoints.Watch(ctx, metav1.ListOptions{ResourceVersion: now.GetResourceVersion()})
	if err != nil {
		return err
	}
	defer w.Stop()
	silence := time.NewTimer(while)
	defer silence.Stop()
	for {
		select {
		case _, open := <-w.ResultChan():
			if !open {
				return errors.New("the watch on Endpoints has ended")
			}
			silence.Reset(while)
		case <-silence.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *System) endpoints() (dynamic.ResourceInterface, error) {
	c, err := dynamic.NewForConfig(s.API.Admin)
	if err != nil {
		return nil, err
	}
	return c.Resource(v1alpha1.GroupVersion.WithResource("endpoints")).Namespace(Tenant), nil
}

// Summaries remembers who was ever shown in a state.
type Summaries struct {
	endpoints dynamic.ResourceInterface
	selector  string
	cancel    context.CancelFunc
	done      sync.WaitGroup

	mu    sync.Mutex
	names map[string]bool
}

// Watch watches for endpoints that get into a state of one word, across an API server's absence.
func (s *System) Watch(ctx context.Context, summary string) (*Summaries, error) {
	endpoints, err := s.endpoints()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &Summaries{endpoints: endpoints, selector: "status.summary=" + summary, cancel: cancel, names: map[string]bool{}}
	first, err := w.start(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	w.done.Go(func() {
		for w.follow(first); ctx.Err() == nil; {
			if again, err := w.start(ctx); err == nil {
				w.follow(again)
				continue
			}
			select { // the API server is away
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
	return w, nil
}

// start begins with those that are in the state.
func (w *Summaries) start(ctx context.Context) (watch.Interface, error) {
	return w.endpoints.Watch(ctx, metav1.ListOptions{FieldSelector: w.selector})
}

func (w *Summaries) follow(events watch.Interface) {
	for e := range events.ResultChan() {
		if o, ok := e.Object.(metav1.Object); ok && e.Type == watch.Added {
			w.mu.Lock()
			w.names[o.GetName()] = true
			w.mu.Unlock()
		}
	}
}

// Seen is how many were.
func (w *Summaries) Seen() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.names)
}

// Stop ends it.
func (w *Summaries) Stop() {
	w.cancel()
	w.done.Wait()
}
