package main

import (
	"syscall"
	"time"
	"unsafe"
)

const (
	stall = 500 * time.Millisecond // a process that stood still for so long relies on nothing that it was told before
	word  = time.Second            // since the sidecar's last answer: for so long its word counts that a worker in doubt may speak
)

// now is on a clock that never steps, and that goes on while the machine sleeps: CLOCK_BOOTTIME of Linux, which package time lacks.
func now() time.Duration {
	const boottime = 7
	var at syscall.Timespec
	if _, _, failed := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, boottime, uintptr(unsafe.Pointer(&at)), 0); failed != 0 {
		panic(failed)
	}
	return time.Duration(at.Nano())
}

func later(a, b time.Duration) time.Duration {
	if a > b {
		return a
	}
	return b
}

// Trust says for how long nobody else can have what is this worker's. What the sidecar says counts from the sending of the request
// that it answers: an answer may wait, as when this process stood still.
type Trust struct {
	since, ticked                time.Duration
	until, aloneUntil, wordUntil time.Duration
	inDoubt, goOn, draining      bool // as the sidecar said last
}

func (t *Trust) answered(asked time.Duration, trustMS, aloneMS int64) {
	if asked < t.since {
		return
	}
	t.goOn = t.goOn && now() < t.wordUntil // what it said before it fell silent is over
	t.wordUntil = later(t.wordUntil, asked+word)
	t.until = later(t.until, asked+time.Duration(trustMS)*time.Millisecond)
	if !t.draining { // a call that is on its way to an heir may arrive there without the sidecar
		t.aloneUntil = later(t.aloneUntil, asked+time.Duration(aloneMS)*time.Millisecond)
	}
}

// notAlone says that there is a sidecar, and that what it will do with us it does not say.
func (t *Trust) notAlone(draining bool) {
	t.aloneUntil = 0
	t.draining = t.draining || draining
}

// forget says that nothing counts that was asked for before.
func (t *Trust) forget() { t.since, t.until, t.aloneUntil, t.goOn = now(), 0, 0, false }

// tick is to be called all the time; it says false when this process stood still since the last call, and then nothing counts.
func (t *Trust) tick() bool {
	before := t.ticked
	t.ticked = now()
	if t.ticked-before < stall {
		return true
	}
	t.forget()
	return false
}

// held is to be asked before what cannot be undone.
func (t *Trust) held() bool { return !t.inDoubt && now() < t.until && now()-t.ticked < stall }

// maySpeak is held; or in doubt, since the store does not answer and the sidecar says to go on; or since there is no sidecar any more.
func (t *Trust) maySpeak() bool {
	if now()-t.ticked >= stall || t.held() {
		return t.held()
	}
	if t.inDoubt && now() < t.wordUntil {
		return t.goOn
	}
	return now() < t.aloneUntil
}
