// Package abilities is what the agent can do to the machine that it runs on: one file for each platform.
package abilities
