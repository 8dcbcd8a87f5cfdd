//go:build !linux

package abilities

import "github.com/rollcall-dev/rollcall/internal/agent/perform"

// OfThisMachine are the types of action that can be done here: none yet.
func OfThisMachine() perform.Executors { return nil }
