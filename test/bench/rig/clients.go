package rig

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	// writers at once are as many as the manager and a gateway have together.
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

// RawWrites is how many updates of an object of an action's size the API server takes in a second, while nothing else is asked of it.
func (s *System) RawWrites(ctx context.Context, lasting time.Duration) (perSecond float64, err error) {
	c, err := s.configMaps()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, lasting)
	defer cancel()
	var n atomic.Int64
	errs := make([]error, writers)
	var group sync.WaitGroup
	began := time.Now()
	for i := range writers {
		group.Go(func() { errs[i] = writeOn(ctx, c, fmt.Sprintf("raw-%d", i), &n) })
	}
	group.Wait()
	return float64(n.Load()) / time.Since(began).Seconds(), errors.Join(errs...)
}

func writeOn(ctx context.Context, c kubernetes.Interface, name string, n *atomic.Int64) error {
	maps := c.CoreV1().ConfigMaps(Tenant)
	o, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	for i := 0; err == nil; i++ {
		o.Data = map[string]string{"content": strings.Repeat(fmt.Sprint(i%10), rawBytes)}
		if o, err = maps.Update(ctx, o, metav1.UpdateOptions{}); err == nil {
			n.Add(1)
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	return err
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
