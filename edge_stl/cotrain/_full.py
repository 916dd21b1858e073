"""Full sharing: D-PSGD (Lian et al., NeurIPS 2017), everybody's whole model every round."""

from edge_stl.cotrain._graph import metropolis, mix
from edge_stl.cotrain._message import Message, pack_floats, unpack_floats
from edge_stl.cotrain._node import Node, Round


class FullSharing(Node):
    """A node that sends its whole model and takes the Metropolis-Hastings mean."""

    def round(self, number: int) -> Round:
        """Take the local steps, send the model, average: ``x_i <- sum_j w_ij x_j``."""
        trained, loss = self.local.run(self.vector, number)
        message = Message(number, degree=self.seat.degree, values=pack_floats(trained))
        inbox = yield dict.fromkeys(self.seat.neighbours, message)
        models = self.read(inbox, lambda m: unpack_floats(m.values, len(trained)))
        weights = metropolis(self.seat.degree, {j: inbox[j].degree for j in models})
        self.vector = mix(trained, models, weights)
        return loss
