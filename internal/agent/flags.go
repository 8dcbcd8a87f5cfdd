package agent

import "github.com/spf13/pflag"

// AddFlags lets a person, or a test that scales time, change t.
func (t *Timing) AddFlags(f *pflag.FlagSet) {
	f.DurationVar(&t.HeartbeatInterval, "heartbeat-interval", t.HeartbeatInterval, "between heartbeats, until a policy says otherwise")
	f.DurationVar(&t.RetryBase, "retry-base", t.RetryBase, "first backoff after a failure")
	f.DurationVar(&t.RetryMax, "retry-max", t.RetryMax, "longest backoff after a failure; never longer than the heartbeat interval")
	f.DurationVar(&t.RefusedRetry, "refused-retry", t.RefusedRetry, "until the server is asked again after a refusal that a person must lift (some wait a multiple of it)")
	f.DurationVar(&t.ActionRepeat, "action-repeat", t.ActionRepeat, "until a result is told again that the server has not acknowledged")
	f.DurationVar(&t.ActionRunning, "action-running", t.ActionRunning, "how long an action runs before that is told")
	f.DurationVar(&t.ActionProgress, "action-progress", t.ActionProgress, "at least between two words of an action's progress")
	f.DurationVar(&t.ContentRetry, "content-retry", t.ContentRetry, "until content that was not good is tried again; twice as long each time, up to 64 times this")
	t.Websocket.AddFlags(f)
}

// Valid tells whether the agent could live by t.
func (t *Timing) Valid() bool {
	websocket := t.websocket()
	return min(t.HeartbeatInterval, t.RetryBase, t.RefusedRetry, t.ActionRepeat, t.ContentRetry) > 0 && min(t.ActionRunning, t.ActionProgress) >= 0 &&
		websocket.Valid() && t.RetryMax >= t.RetryBase
}
