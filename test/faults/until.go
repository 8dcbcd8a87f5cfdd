package main

import (
	"context"
	"fmt"
	"time"
)

// look is how often it is looked whether something has happened.
const look = 25 * time.Millisecond

// until looks until done says so, or fails; after patience the error says what was waited for.
func until(ctx context.Context, patience time.Duration, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return fmt.Errorf("not within %s: %s: %w", patience, what, err)
			}
			return fmt.Errorf("not within %s: %s", patience, what)
		case <-tick.C:
		}
	}
}

// pause waits for some time, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
