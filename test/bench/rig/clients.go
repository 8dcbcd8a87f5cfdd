package rig

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

const (
	// writers at once are as many as a gateway or a manager has.
	writers = 16
	// rawBytes is the size of what is written, that of an action.
	rawBytes = 2500
	// probeEvery is how often the client looks that has nothing to do with all this.
	probeEvery = 50 * time.Millisecond
)

func (s *System) configMaps() (kubernetes.Interface, error) {
	config := rest.CopyConfig(s.API.Admin)
	config.QPS = -1
	return kubernetes.NewForConfig(config)
}

// RawWrites is how many updates of a ConfigMap of an action's size the API server takes in a second, while nothing else is asked of it.
func (s *System) RawWrites(ctx context.Context, lasting time.Duration) (perSecond float64, err error) {
	c, err := s.configMaps()
	if err != nil {
		return 0, err
	}
	maps := c.CoreV1().ConfigMaps(Tenant)
	return writes(ctx, lasting, func(ctx context.Context, writer int) (func(i int) error, error) {
		o, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("raw-%d", writer)}}, metav1.CreateOptions{})
		return func(i int) error {
			o.Data = map[string]string{"content": strings.Repeat(fmt.Sprint(i%10), rawBytes)}
			next, err := maps.Update(ctx, o, metav1.UpdateOptions{})
			o = next
			return err
		}, err
	})
}

// StatusWrites is how many updates of an action's status it takes in a second, by the manager's account and while no manager runs. They are to
// actions that have ended, which are whole, and at least as many as writers.
func (s *System) StatusWrites(ctx context.Context, lasting time.Duration) (perSecond float64, err error) {
	s.Manager.Stop(10 * time.Second)
	defer func() { err = errors.Join(err, s.RestartManager(ctx)) }()
	config, err := unlimited(filepath.Join(s.local.Dir, "manager.kubeconfig"))
	if err != nil {
		return 0, err
	}
	c, err := dynamic.NewForConfig(config)
	if err != nil {
		return 0, err
	}
	actions := c.Resource(actionResource).Namespace(Tenant)
	list, err := actions.List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Succeeded", LabelSelector: v1alpha1.LabelParent})
	if err != nil {
		return 0, err
	}
	if len(list.Items) < writers {
		return 0, fmt.Errorf("there are %d actions that have ended, of %d", len(list.Items), writers)
	}
	return writes(ctx, lasting, func(ctx context.Context, writer int) (func(i int) error, error) {
		o := &list.Items[writer]
		return func(i int) error {
			if err := unstructured.SetNestedField(o.Object, fmt.Sprint(i), "status", "message"); err != nil {
				return err
			}
			next, err := actions.UpdateStatus(ctx, o, metav1.UpdateOptions{})
			o = next
			return err
		}, nil
	})
}

// writes is how many writes a second are done by writers, each of which prepares one and does it again and again.
func writes(ctx context.Context, lasting time.Duration, prepare func(ctx context.Context, writer int) (func(i int) error, error)) (perSecond float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, lasting)
	defer cancel()
	var n atomic.Int64
	errs := make([]error, writers)
	var group sync.WaitGroup
	began := time.Now()
	for writer := range writers {
		group.Go(func() {
			write, err := prepare(ctx, writer)
			for i := 0; err == nil; i++ {
				if err = write(i); err == nil {
					n.Add(1)
				}
			}
			if ctx.Err() == nil { // else it was interrupted
				errs[writer] = err
			}
		})
	}
	group.Wait()
	return float64(n.Load()) / time.Since(began).Seconds(), errors.Join(errs...)
}

// Probe has another client read and write one object of its own now and then, and returns how long that took, sorted, when it is stopped.
func (s *System) Probe(ctx context.Context, name string) (stop func() ([]time.Duration, error), err error) {
	c, err := s.configMaps()
	if err != nil {
		return nil, err
	}
	maps := c.CoreV1().ConfigMaps(Tenant)
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var took []time.Duration
	ended := make(chan error, 1)
	go func() {
		tick := time.NewTicker(probeEvery)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				ended <- nil
				return
			case <-tick.C:
			}
			began := time.Now()
			o, err := maps.Get(ctx, name, metav1.GetOptions{})
			if err == nil {
				o.Data = map[string]string{"n": fmt.Sprint(i)}
				_, err = maps.Update(ctx, o, metav1.UpdateOptions{})
			}
			if ctx.Err() != nil {
				continue
			}
			if err != nil {
				ended <- err
				return
			}
			took = append(took, time.Since(began))
		}
	}()
	return func() ([]time.Duration, error) {
		cancel()
		err := <-ended
		slices.Sort(took)
		return took, err
	}, nil
}
