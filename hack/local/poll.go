package local

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Poll asks every now and then until the answer is nil, for patience at most, and then returns the last error; ctx's own if that was cancelled.
func Poll(ctx context.Context, patience, every time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return fmt.Errorf("not within %s: %w", patience, err)
		case <-tick.C:
		}
	}
}
