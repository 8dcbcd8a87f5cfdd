package rig

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

var actionResource = v1alpha1.GroupVersion.WithResource("endpointactions")

// Actions are those of the fleet, as its person sees them: with client-go, and a watch that remembers when it showed what.
type Actions struct {
	api dynamic.ResourceInterface

	mu    sync.Mutex
	shown map[string]Shown  // by UID
	ended map[string]string // the phase of those that have ended, by name
	stop  context.CancelFunc
	done  sync.WaitGroup
}

// Shown is when a watch has shown an action: as it was created, as the manager admitted it, and as a gateway sent it.
type Shown struct{ Created, Admitted, Sent time.Time }

// Actions begins to watch.
func (s *System) Actions(ctx context.Context) (*Actions, error) {
	config, err := unlimited(s.Person.Kubeconfig)
	if err != nil {
		return nil, err
	}
	c, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	a := &Actions{
		api:   c.Resource(actionResource).Namespace(Tenant),
		shown: map[string]Shown{}, ended: map[string]string{}, stop: cancel,
	}
	list, err := a.api.List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		cancel()
		return nil, err
	}
	// an API server under load ends a watch that it cannot keep up with
	w, err := watchtools.NewRetryWatcherWithContext(ctx, list.GetResourceVersion(), &cache.ListWatch{WatchFuncWithContext: a.api.Watch})
	if err != nil {
		cancel()
		return nil, err
	}
	a.done.Go(func() { a.follow(w) })
	return a, nil
}

// unlimited has no limit of the client's own: the server is what is measured.
func unlimited(kubeconfig string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err == nil {
		config.QPS = -1
	}
	return config, err
}

func (a *Actions) follow(w watch.Interface) {
	for e := range w.ResultChan() {
		at := time.Now()
		o, ok := e.Object.(*unstructured.Unstructured)
		if !ok {
			continue
		}
		a.mu.Lock()
		a.shown[string(o.GetUID())] = a.shown[string(o.GetUID())].at(o, at)
		if finish, _, _ := unstructured.NestedString(o.Object, "status", "finishTime"); finish != "" {
			a.ended[o.GetName()], _, _ = unstructured.NestedString(o.Object, "status", "phase")
		}
		a.mu.Unlock()
	}
}

// at is what has been shown once o was at a moment.
func (s Shown) at(o *unstructured.Unstructured, at time.Time) Shown {
	for _, first := range []struct {
		of     *time.Time
		fields []string
	}{{&s.Created, []string{"spec"}}, {&s.Admitted, []string{"status", "admission"}}, {&s.Sent, []string{"status", "delivery"}}} {
		if _, here, _ := unstructured.NestedMap(o.Object, first.fields...); here && first.of.IsZero() {
			*first.of = at
		}
	}
	return s
}

// Create creates a PerformHeartbeat with a spec beside, and returns its UID.
func (a *Actions) Create(ctx context.Context, name string, target map[string]any) (uid string, err error) {
	spec := map[string]any{"type": "PerformHeartbeat"}
	for k, v := range target {
		spec[k] = v
	}
	o, err := a.api.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "rollcall.dev/v1alpha1", "kind": "EndpointAction", "metadata": map[string]any{"name": name}, "spec": spec,
	}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return string(o.GetUID()), nil
}

// Shown is when the watch has shown an action. It tells whether that was so in each state.
func (a *Actions) Shown(uid string) (Shown, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.shown[uid]
	return s, !s.Sent.IsZero()
}

// Ended waits until an action has ended well.
func (a *Actions) Ended(ctx context.Context, name string, patience time.Duration) error {
	return Poll(ctx, patience, func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		switch phase := a.ended[name]; phase {
		case "Succeeded":
			return nil
		case "":
			return fmt.Errorf("%s has not ended", name)
		default:
			return fmt.Errorf("%s ended %s", name, phase)
		}
	})
}

// Stop ends the watch.
func (a *Actions) Stop() {
	a.stop()
	a.done.Wait()
}

// EndpointOf is the name of the endpoint with an identity.
func (s *System) EndpointOf(ctx context.Context, identityID string) (string, error) {
	endpoints, err := s.endpoints()
	if err != nil {
		return "", err
	}
	all, err := endpoints.List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for _, o := range all.Items {
		if id, _, _ := unstructured.NestedString(o.Object, "status", "identity", "id"); id == identityID {
			return o.GetName(), nil
		}
	}
	return "", fmt.Errorf("no endpoint has the identity %s", identityID)
}
