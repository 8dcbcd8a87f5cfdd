package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// reading is the watch of one kind of object. It never gives up; meanwhile what was read stays.
type reading struct {
	what string // for people
	log  logr.Logger
	lw   *cache.ListWatch
	kind runtime.Object
	sink cache.ReflectorStore

	mu     sync.Mutex
	synced bool
	err    error
}

// target takes what is read of objects of type O.
type target[O any] interface {
	event(O)
	drop(O)
	replace([]O)
}

func newReading[O runtime.Object](what string, log logr.Logger, lw *cache.ListWatch, to target[O], kind O) *reading {
	r := &reading{what: what, log: log, lw: lw, kind: kind}
	r.sink = &sink[O]{to: to, synced: r.isSynced}
	return r
}

func newEndpointReading(log logr.Logger, c cache.Getter, to *endpoints) *reading {
	lw := listWatch(c, endpointsResource, metav1.NamespaceAll, fields.Everything())
	r := &reading{what: "Endpoints", log: log, lw: lw, kind: &v1alpha1.Endpoint{}}
	r.sink = &endpointSink{endpoints: to, synced: r.isSynced}
	return r
}

// listWatch streams its first state where the API server can do that, and otherwise asks for it in pages.
func listWatch(c cache.Getter, resource, namespace string, selector fields.Selector) *cache.ListWatch {
	lw := cache.NewListWatchFromClient(c, resource, namespace, selector)
	list, watchAny := lw.ListWithContextFunc, lw.WatchFuncWithContext
	lw.ListWithContextFunc = func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		if o.ResourceVersion == "0" { // would be answered whole, whatever the limit
			o.ResourceVersion = ""
		}
		return list(ctx, o)
	}
	lw.WatchFuncWithContext = func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		w, err := watchAny(ctx, o)
		if err != nil && o.SendInitialEvents != nil && utilnet.IsConnectionRefused(err) {
			// the reflector would try again for itself, and neither tell us nor end with ctx
			return nil, errors.New(err.Error())
		}
		return w, err
	}
	return lw
}

// Pauses between attempts to read. The API server's own limits protect it from the few gateways there are.
var retryReading = wait.Backoff{
	Duration: 200 * time.Millisecond, Cap: 5 * time.Second, Steps: math.MaxInt32, Factor: 2, Jitter: 0.5,
}

// listPage bounds an answer where the API server cannot stream the first state.
const listPage = 500

func (r *reading) run(ctx context.Context) {
	quiet := r.log.V(1)
	ctx = klog.NewContext(ctx, quiet)
	pauses := retryReading
	reflector := cache.NewReflectorWithOptions(r.lw, r.kind, r.sink, cache.ReflectorOptions{Name: r.what, Logger: &quiet, Backoff: &pauses})
	reflector.WatchListPageSize = listPage
	_ = retryReading.DelayWithReset(clock.RealClock{}, time.Minute).Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		if err := reflector.ListAndWatchWithContext(ctx); err != nil && ctx.Err() == nil {
			r.failed(err)
		}
		return false, nil
	})
}

func (r *reading) failed(err error) {
	r.mu.Lock()
	news := r.err == nil || r.err.Error() != err.Error()
	r.err = err
	r.mu.Unlock()
	if news {
		r.log.Error(err, "Reading from the API server fails and is tried again. What was read before stays in use.", "what", r.what)
	}
}

func (r *reading) isSynced(count int) {
	r.mu.Lock()
	first, recovered := !r.synced, r.err != nil
	r.synced, r.err = true, nil
	r.mu.Unlock()
	if first || recovered {
		r.log.Info("Read from the API server.", "what", r.what, "count", count)
	}
}

// missing says why nothing was read yet; nil if it was.
func (r *reading) missing() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.synced:
		return nil
	case r.err != nil:
		return fmt.Errorf("%s are not read yet: %w", r.what, r.err)
	default:
		return fmt.Errorf("%s are not read yet", r.what)
	}
}

// sink hands a reflector's objects on by their type.
type sink[O any] struct {
	to     target[O]
	synced func(count int)
}

func (s *sink[O]) one(o any, do func(O)) error {
	v, ok := o.(O)
	if !ok {
		return fmt.Errorf("unexpected object %T", o)
	}
	do(v)
	return nil
}

func (s *sink[O]) Add(o any) error    { return s.one(o, s.to.event) }
func (s *sink[O]) Update(o any) error { return s.one(o, s.to.event) }
func (s *sink[O]) Delete(o any) error { return s.one(o, s.to.drop) }
func (s *sink[O]) Resync() error      { return nil }

func (s *sink[O]) Replace(all []any, _ string) error {
	objects := make([]O, 0, len(all))
	for _, o := range all {
		if err := s.one(o, func(v O) { objects = append(objects, v) }); err != nil {
			return err
		}
	}
	s.to.replace(objects)
	s.synced(len(objects))
	return nil
}

// endpointSink makes records at once, so that the first state of a whole fleet is never held as it came.
type endpointSink struct {
	endpoints *endpoints
	synced    func(count int)
}

// Transformer is what the reflector applies to the objects that it collects.
func (s *endpointSink) Transformer() cache.TransformFunc {
	return func(o any) (any, error) {
		if e, ok := o.(*v1alpha1.Endpoint); ok {
			return newRecord(e), nil
		}
		return o, nil
	}
}

func (s *endpointSink) one(o any, do func(*v1alpha1.Endpoint)) error {
	e, ok := o.(*v1alpha1.Endpoint)
	if !ok {
		return fmt.Errorf("unexpected object %T", o)
	}
	do(e)
	return nil
}

func (s *endpointSink) Add(o any) error    { return s.one(o, s.endpoints.event) }
func (s *endpointSink) Update(o any) error { return s.one(o, s.endpoints.event) }
func (s *endpointSink) Delete(o any) error { return s.one(o, s.endpoints.drop) }
func (s *endpointSink) Resync() error      { return nil }

func (s *endpointSink) Replace(all []any, _ string) error {
	records := make([]*record, 0, len(all))
	for _, o := range all {
		r, ok := o.(*record)
		if e, whole := o.(*v1alpha1.Endpoint); whole {
			r, ok = newRecord(e), true
		}
		if !ok {
			return fmt.Errorf("unexpected object %T", o)
		}
		if r != nil {
			records = append(records, r)
		}
	}
	s.endpoints.replace(records)
	s.synced(len(records))
	return nil
}
