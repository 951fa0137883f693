# The names that a user may rely on, by what they are for; everything else may change at any time. `__init__.py` reads the lines `from .module import …`.
__version__: str
__all__: list[str]

# Videos
from .video import VideoIndex as VideoIndex, index_video as index_video, read_frames as read_frames
from .overworld import simulate as simulate

# Spans that are gameplay
from .labeler import Spans as Spans, TimelineLabeler as TimelineLabeler, load_labels as load_labels

# Frames, and groups of them
from .frames import FrameStore as FrameStore, extract as extract, open_frames as open_frames
from .groups import Batches as Batches, Groups as Groups
from .recipes import load_groups as load_groups

# Models
from .quant import FSQ as FSQ, NSVQ as NSVQ, make_quantizer as make_quantizer
from .tokenizer import Tokenizer as Tokenizer, TokenizerConfig as TokenizerConfig
from .lam import LAM as LAM, LAMConfig as LAMConfig
from .dit import DiT as DiT, DiTConfig as DiTConfig

# Training
from .train import TrainConfig as TrainConfig
from .checkpoint import load_model as load_model
from .recipes import fit as fit, load_lam as load_lam, recipe as recipe, train_lam as train_lam, train_tokenizer as train_tokenizer, train_world as train_world

# Playing
from .world import Game as Game, World as World, load_world as load_world, record as record
from .player import WorldPlayer as WorldPlayer

# Labels and scores
from .label import label_video as label_video
from .metrics import action_scores as action_scores, changed_psnr as changed_psnr, psnr as psnr, score_file as score_file

# What goes wrong and can be mended
from .core import PokeidmError as PokeidmError
