package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// lease tells the manager that this process lives. Its name is new at each start, so nobody else ever holds it.
type lease struct {
	log             logr.Logger
	api             leases
	name            string
	duration, renew time.Duration
	renewed         func()

	held *coordinationv1.Lease
}

// farewell bounds how long a gateway that ends tries to take its Lease with it.
const farewell = 2 * time.Second

// run keeps the Lease until ctx ends, and then deletes it.
func (l *lease) run(ctx context.Context) {
	failing := false
	for ctx.Err() == nil {
		err := l.keep(ctx)
		pause := l.renew
		if err != nil {
			pause = min(pause, time.Second)
		}
		if ctx.Err() == nil && (err != nil) != failing {
			failing = err != nil
			l.report(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(jittered(pause)):
		}
	}
	l.release(context.WithoutCancel(ctx))
}

func (l *lease) report(err error) {
	if err == nil {
		l.log.Info("The Lease is renewed again.")
		return
	}
	l.log.Error(err, "The Lease is not renewed; this is tried again. If it goes on, the manager takes this gateway for dead.")
}

// keep makes the Lease, or renews it.
func (l *lease) keep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.renew)
	defer cancel()
	stored, err := l.put(ctx)
	switch {
	case err == nil:
		l.held = stored
		l.renewed()
	case apierrors.IsNotFound(err): // somebody deleted it
		l.held = nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err): // it was written and the answer was lost, or it was deleted
		if stored, getErr := l.api.get(ctx, l.name); getErr == nil {
			l.held = stored
		} else if apierrors.IsNotFound(getErr) {
			l.held = nil
		}
	}
	if err != nil {
		return fmt.Errorf("renew Lease %s: %w", l.name, err)
	}
	return nil
}

func (l *lease) put(ctx context.Context) (*coordinationv1.Lease, error) {
	now := metav1.NowMicro()
	if l.held == nil {
		return l.api.create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: l.name},
			Spec: coordinationv1.LeaseSpec{
				HolderIdentity: &l.name, LeaseDurationSeconds: ptr.To(int32(max(1, l.duration.Round(time.Second).Seconds()))),
				AcquireTime: &now, RenewTime: &now,
			},
		})
	}
	next := l.held.DeepCopy()
	next.Spec.RenewTime = &now
	return l.api.update(ctx, next)
}

func (l *lease) release(ctx context.Context) {
	if l.held == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	if err := l.api.delete(ctx, l.held); err != nil && !apierrors.IsNotFound(err) {
		l.log.Error(err, "The Lease could not be deleted: the manager finds out by its age that this gateway has ended.")
	}
}

// jittered spreads what many do at the same pace: ± 10 %.
func jittered(d time.Duration) time.Duration {
	return time.Duration((0.9 + 0.2*rand.Float64()) * float64(d)) //nolint:gosec // no secret
}
