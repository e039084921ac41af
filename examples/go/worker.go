package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"
)

const (
	tick  = 20 * time.Millisecond
	ended = "ended"
)

// Data is what it takes to go on with a call; what is not known here is passed on as it is.
type Data map[string]json.RawMessage

// Call is a live call; or one that is over here, which the sidecar does not know yet.
type Call struct {
	session, instance string
	epoch             int64
	data              Data
	stream            *Stream // nil without RTP
	sequence, written int64   // of its last frame, and of its last checkpoint
	since             time.Duration
	over              string // ended: to be closed; anything else is why it cannot be served: to be released
}

// frame is 20 ms of audio. The epoch goes along: by it whoever gets it tells a newer owner from an older one.
func (c *Call) frame(audio net.PacketConn) (err error) {
	defer func() {
		if why := recover(); why != nil { // whatever it is, it concerns this call alone
			err = fmt.Errorf("%v", why)
		}
	}()
	c.sequence++
	if c.data["media"] == nil {
		return nil
	}
	var media string
	if err := json.Unmarshal(c.data["media"], &media); err != nil {
		return err
	}
	address, err := netip.ParseAddrPort(media)
	if err == nil {
		frame := []byte(fmt.Sprintf("%s %d\n", c.session, c.epoch))
		if c.stream != nil {
			frame = c.stream.packet(c.sequence)
		}
		_, err = audio.WriteTo(frame, net.UDPAddrFromAddrPort(address))
	}
	return err
}

// newest is the call's data as of its last frame.
func (c *Call) newest() Data {
	data := Data{}
	for name, value := range c.data {
		data[name] = value
	}
	data["sequence"] = json.RawMessage(strconv.FormatInt(c.sequence, 10))
	if c.stream != nil {
		data["timestamp"] = json.RawMessage(strconv.FormatInt(c.stream.timestamp, 10))
	}
	return data
}

// Worker is this process as the sidecar knows it. Its methods with a small first letter are called with the lock, unless they ask.
type Worker struct {
	http             *http.Client
	url, name, pool  string
	capacity         int
	interval         time.Duration // between two checkpoints of a call
	audio            net.PacketConn
	wake, registered chan struct{}

	sync.Mutex
	trust           Trust
	instance, token string
	over            bool             // this instance
	calls, ending   map[string]*Call // that are served here; that are over here, and have to be closed or released
	lost            map[string]loss  // lately: what was asked before that time says nothing of that epoch
	compareUntil    time.Duration    // until then the sidecar is asked again and again what is ours
	attached        bool
	detachedAt      time.Duration
	answering       bool               // a ping
	again           context.CancelFunc // has the stream opened again
	standing        [2]bool
	refused         map[string]map[int]bool
}

type loss struct {
	epoch int64
	at    time.Duration
}

// Speak is a frame of every call. Nothing here waits for anybody.
func (w *Worker) Speak() {
	w.Lock()
	defer w.Unlock()
	if !w.trust.tick() { // this process stood still: calls may have moved
		w.compare()
	}
	if standing := [2]bool{w.trust.held(), w.trust.maySpeak()}; standing != w.standing {
		w.standing = standing
		if standing[0] {
			w.tellStanding("held", fields{})
		} else {
			w.tellStanding("in_doubt", fields{})
		}
	}
	_ = w.audio.SetWriteDeadline(time.Now().Add(tick))
	for _, call := range w.calls {
		if !w.trust.maySpeak() { // asked for each, at the last moment
			return
		}
		if err := call.frame(w.audio); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			w.end(call.session, fmt.Sprintf("it cannot be served: %q", err))
		}
	}
}

func (w *Worker) tellStanding(what string, more fields) {
	more["may_speak"], more["calls"] = w.trust.maySpeak(), len(w.calls)
	more["trusted_until_ms"] = time.Now().Add(w.trust.until - now()).UnixMilli()
	tell(what, more)
}

// serve takes up a call that an answer says is ours, and says whether it is served here.
func (w *Worker) serve(session string, found Session, asked time.Duration) bool {
	if found.Epoch == 0 || (found.MaySpeak != nil && !*found.MaySpeak) {
		w.compare() // as when the sidecar does not know yet whether an heir has it
		return false
	}
	if gone := w.lost[session]; asked < w.trust.since || (asked < gone.at && found.Epoch <= gone.epoch) {
		return false
	}
	if over := w.ending[session]; over != nil && (over.instance == w.instance || over.instance == found.PreviousOwner) {
		over.epoch, over.instance = found.Epoch, w.instance
		return false
	}
	delete(w.ending, session) // the same id, and another call
	if known := w.calls[session]; known == nil || known.epoch < found.Epoch {
		call := &Call{session: session, instance: w.instance, epoch: found.Epoch, since: now()}
		w.calls[session] = call
		err := json.Unmarshal(found.RecoveryData, &call.data)
		if err == nil {
			err = json.Unmarshal(call.data["sequence"], &call.sequence)
		}
		if err == nil {
			call.stream, err = streamOf(call.data)
		}
		if err == nil && call.stream != nil && found.Recovered && !found.Planned {
			call.sequence += call.stream.skip(time.Duration(found.DataAgeMS) * time.Millisecond)
		}
		if err != nil {
			w.end(session, fmt.Sprintf("its recovery data cannot be read: %q", err))
		}
	}
	return w.calls[session] != nil
}

// lose stops a call's media, since it is somebody else's; and never hangs it up.
func (w *Worker) lose(session, reason string, epoch int64, after time.Duration) *Call {
	call := w.calls[session]
	if call == nil {
		call = w.ending[session]
	}
	if call != nil && epoch > 0 && epoch < call.epoch {
		return nil // it went and came back meanwhile
	}
	if call != nil {
		epoch = call.epoch
		delete(w.calls, session)
		delete(w.ending, session)
		tell("lost", fields{"session": session, "reason": reason})
	}
	w.lost[session] = loss{epoch, now() + after}
	w.compare()
	return call
}

// loseAll says that this instance is over: others have its calls or will. What ended here is still to be closed.
func (w *Worker) loseAll(reason, instance string) {
	if w.over || instance != w.instance {
		return
	}
	w.over = true
	w.trust.forget()
	for _, call := range append(list(w.calls), list(w.ending)...) {
		if call.over != ended {
			w.lose(call.session, reason, 0, 0)
		}
	}
	tell("over", fields{"instance": instance, "reason": reason})
	w.again()
}

// end says that a call is over here. The caller hung up: it is to be closed; or it cannot be served: it is to be released, with its data.
func (w *Worker) end(session, why string) bool {
	call := w.calls[session]
	if call == nil {
		call = w.ending[session]
	}
	if call == nil {
		return false
	}
	delete(w.calls, session)
	w.ending[session], call.over = call, why
	what := "unserved"
	if why == ended {
		what = ended
	}
	tell(what, fields{"session": session, "reason": why})
	w.rouse()
	return true
}

// compare says that something is not certain: the sidecar is to be asked what is ours.
func (w *Worker) compare() {
	w.compareUntil = now() + unsureFor
	w.rouse()
}

func (w *Worker) rouse() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func list(calls map[string]*Call) []*Call {
	var found []*Call
	for _, call := range calls {
		found = append(found, call)
	}
	return found
}
