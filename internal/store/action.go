package store

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// Errors of reading and writing actions. After any other it is not known whether the API server has done it.
var (
	// ErrGone: the action does not exist any more.
	ErrGone = errors.New("the action does not exist any more")
	// ErrConflict: the action is not what it was any more. Read it, and decide again.
	ErrConflict = errors.New("the action has changed meanwhile")
	// ErrRefused: the API server does not take this, however often it is tried.
	ErrRefused = errors.New("the API server does not accept the status")
	// ErrBusy: too many actions are being searched for.
	ErrBusy = errors.New("too many actions are being searched for")
)

// A search is for an action that this gateway does not know by name: all actions of its endpoint are read, of which there may be many.
const (
	searchRate  = 5 // a second
	searchBurst = 10
)

// OpenActions are the open actions that were admitted for an identity, in the order in which they were. They are shared and must not be changed.
func (s *Store) OpenActions(identityID string) []*v1alpha1.EndpointAction {
	return s.actions.identity(identityID)
}

// Action finds an open action by its UID. It is shared and must not be changed.
func (s *Store) Action(uid string) (*v1alpha1.EndpointAction, bool) {
	a := s.actions.uid(uid)
	return a, a != nil
}

// ReadAction reads an action for an endpoint from the API server, whether it is open or not. The error is ErrGone, ErrBusy, or one of the API
// server's.
func (s *Store) ReadAction(ctx context.Context, endpoint Ref, uid string) (*v1alpha1.EndpointAction, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	at, known := s.actions.whereabouts(uid)
	var a *v1alpha1.EndpointAction
	var err error
	if known && at.Namespace == endpoint.Namespace {
		a, err = s.clients.GetAction(ctx, at.Namespace, at.Name)
	} else {
		a, err = s.search(ctx, endpoint, uid)
	}
	switch {
	case apierrors.IsNotFound(err), err == nil && (a == nil || string(a.UID) != uid):
		s.actions.lost(uid)
		return nil, ErrGone
	case err != nil:
		return nil, fmt.Errorf("read an action: %w", err)
	}
	s.actions.answered(a)
	return a, nil
}

// search is nil if there is no such action.
func (s *Store) search(ctx context.Context, endpoint Ref, uid string) (*v1alpha1.EndpointAction, error) {
	if !s.searches.Allow() {
		return nil, ErrBusy
	}
	for page := ""; ; {
		all, err := s.clients.ListActions(ctx, endpoint.Namespace, endpoint.Name, page)
		if err != nil {
			return nil, err
		}
		for i := range all.Items {
			if string(all.Items[i].UID) == uid {
				return &all.Items[i], nil
			}
		}
		if page = all.Continue; page == "" {
			return nil, nil //nolint:nilnil // there is none, which is no error
		}
	}
}

// WriteAction writes the status of an action over the one that was read as a: at once, whatever else is to be written. The error is ErrGone,
// ErrConflict, ErrRefused, or one that leaves it open whether it was written.
func (s *Store) WriteAction(ctx context.Context, a *v1alpha1.EndpointAction) (*v1alpha1.EndpointAction, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	stored, err := s.clients.PutActionStatus(ctx, a)
	switch {
	case err == nil:
		s.actions.answered(stored)
		return stored, nil
	case apierrors.IsNotFound(err):
		s.actions.lost(string(a.UID))
		return nil, ErrGone
	case apierrors.IsConflict(err):
		return nil, ErrConflict
	case refused(err), apierrors.IsForbidden(err):
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil, fmt.Errorf("write an action: %w", err)
}
