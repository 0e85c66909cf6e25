"""The papers that derivations are about or cite, each once."""

from __future__ import annotations

from symprop.claims import Paper

BA2016 = Paper("ba2016", "Ba, Jimmy and Kiros, Jamie and Hinton, Geoffrey", "Layer Normalization", "arXiv", 2016)
BACHLECHNER2021 = Paper("bachlechner2021", "Bachlechner, Thomas and others", "ReZero is All You Need: Fast Convergence at "
                        "Large Depth", "Uncertainty in Artificial Intelligence", 2021)
CHO2009 = Paper("cho2009", "Cho, Youngmin and Saul, Lawrence", "Kernel Methods for Deep Learning",
                "Advances in Neural Information Processing Systems 22", 2009)
COWSIK2024 = Paper("cowsik2024", "Cowsik, Aditya and Nebabu, Tamra and Qi, Xiao-Liang and Ganguli, Surya",
                   "Geometric Dynamics of Signal Propagation Predict Trainability of Transformers", "arXiv", 2024,
                   "https://arxiv.org/abs/2403.02579")
DEHGHANI2023 = Paper("dehghani2023", "Dehghani, Mostafa and others", "Scaling Vision Transformers to 22 Billion Parameters",
                     "International Conference on Machine Learning", 2023)
DING2021 = Paper("ding2021", "Ding, Ming and others", "CogView: Mastering Text-to-Image Generation via Transformers",
                 "Advances in Neural Information Processing Systems 34", 2021)
DONG2021 = Paper("dong2021", "Dong, Yihe and Cordonnier, Jean-Baptiste and Loukas, Andreas",
                 "Attention is not all you need: pure attention loses rank doubly exponentially with depth",
                 "International Conference on Machine Learning", 2021, "https://arxiv.org/abs/2103.03404")
GIORLANDINO2025 = Paper("giorlandino2025", "Giorlandino, Alessio and Goldt, Sebastian",
                        "Two failure modes of deep transformers and how to avoid them: a unified theory of signal propagation "
                        "at initialisation", "arXiv", 2025)
HENRY2020 = Paper("henry2020", "Henry, Alex and others", "Query-Key Normalization for Transformers",
                  "Findings of the Association for Computational Linguistics: EMNLP", 2020)
HUANG2020 = Paper("huang2020", "Huang, Xiao Shi and others", "Improving Transformer Optimization Through Better Initialization",
                  "International Conference on Machine Learning", 2020)
KEDIA2024 = Paper("kedia2024", "Kedia, Akhil and Zaidi, Mohd Abbas and Khyalia, Sushil and Jung, Jungho and Goka, Harshith and "
                  "Lee, Haejun", "Transformers Get Stable: An End-to-End Signal Propagation Theory for Language Models",
                  "International Conference on Machine Learning", 2024)
KIM2025 = Paper("kim2025", "Kim, Jeonghoon and others", "Peri-LN: Revisiting Normalization Layer in the Transformer "
                "Architecture", "International Conference on Machine Learning", 2025)
LI2022 = Paper("li2022", "Li, Mufan Bill and Nica, Mihai and Roy, Daniel M.", "The Neural Covariance SDE: Shaped Infinite "
               "Depth-and-Width Networks at Initialization", "Advances in Neural Information Processing Systems 35", 2022)
NOCI2022 = Paper("noci2022", "Noci, Lorenzo and Anagnostidis, Sotiris and Biggio, Luca and Orvieto, Antonio and Singh, Sidak "
                 "Pal and Lucchi, Aurelien", "Signal Propagation in Transformers: Theoretical Perspectives and the Role of "
                 "Rank Collapse", "Advances in Neural Information Processing Systems 35", 2022)
NOCI2023 = Paper("noci2023", "Noci, Lorenzo and Li, Chuning and Li, Mufan Bill and He, Bobby and Hofmann, Thomas and Maddison, "
                 "Chris and Roy, Daniel M.", "The Shaped Transformer: Attention Models in the Infinite Depth-and-Width Limit",
                 "Advances in Neural Information Processing Systems 36", 2023)
WANG2021 = Paper("wang2021", "Wang, Ben and Komatsuzaki, Aran", "GPT-J-6B: A 6 Billion Parameter Autoregressive Language Model",
                 "mesh-transformer-jax", 2021)
WANG2022 = Paper("wang2022", "Wang, Hongyu and others", "DeepNet: Scaling Transformers to 1,000 Layers", "arXiv", 2022)
WILLIAMS1997 = Paper("williams1997", "Williams, Christopher", "Computing with infinite networks",
                     "Advances in Neural Information Processing Systems 9", 1997)
XIONG2020 = Paper("xiong2020", "Xiong, Ruibin and others", "On Layer Normalization in the Transformer Architecture",
                  "International Conference on Machine Learning", 2020)
ZHANG2019 = Paper("zhang2019", "Zhang, Biao and Sennrich, Rico", "Root Mean Square Layer Normalization",
                  "Advances in Neural Information Processing Systems 32", 2019)
ZHANG2019DS = Paper("zhang2019ds", "Zhang, Biao and Titov, Ivan and Sennrich, Rico", "Improving Deep Transformer with "
                    "Depth-Scaled Initialization and Merged Attention",
                    "Empirical Methods in Natural Language Processing", 2019)
